import { spawn } from 'node:child_process';
import { EventEmitter } from 'node:events';
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { CollectiveError, type Digest } from '@collective/shared';
import { expect, onTestFinished, test, vi } from 'vitest';
import { identifyProcess, isAlive } from '../machine/process-identity.js';
import { readJsonLines, writeJsonLine } from '../machine/json-lines.js';
import { sessionPaths } from '../machine/machine-session.js';
import { field } from '../machine/qmp-client.js';
import { DiskKeys } from './disk-keys.js';
import type { DiskService, DiskServiceEvents } from './disk-service.js';
import { MachineRecords } from './machine-record.js';
import type { MachineRecord, MachineSpec } from './machine-spec.js';
import { MachineUnit } from './machine-unit.js';
import { type MemoryImage, MemoryImages } from './memory-image.js';

const anySpec: MachineSpec = {
  machine: 'one',
  description: {
    memoryBytes: 1 << 28,
    cpus: 1,
    chipset: 'q35',
    firmware: 'bios',
    network: 'none',
    display: 'none',
    guestAgent: false,
    clock: 'utc',
  },
  disks: [{ name: 'system', bus: 'virtio', source: { kind: 'zero', diskBytes: 1 << 20 } }],
  uuid: '5e0d1d5e-6a67-4c39-9a5c-1b1f0d6a7b10',
  macAddress: '52:54:00:12:34:56',
};

class FakeDisks extends EventEmitter<DiskServiceEvents> implements DiskService {
  attach: DiskService['attach'] = () => Promise.resolve();
  adopt = vi.fn((): Promise<void> => Promise.resolve());
  detach = (): Promise<void> => Promise.resolve();
  setBlockKeys = vi.fn((_machine: string, _keys: unknown): Promise<void> => Promise.resolve());
  setWait = (): Promise<void> => Promise.resolve();
  warm = (): Promise<void> => Promise.resolve();
  traceStart = (): Promise<void> => Promise.resolve();
  traceIdle = (): Promise<void> => Promise.resolve();
  missing = (): Promise<[]> => Promise.resolve([]);
}

/** A process that does nothing, and what its control socket answers; `answers` may refuse (an Error) or say nothing (undefined). */
const fakeMachine = async (
  answers: (command: string) => object | string | Error | undefined = () => ({}),
  { spec = anySpec, isResumed = false }: { readonly spec?: MachineSpec; readonly isResumed?: boolean } = {},
) => {
  const folder = await mkdtemp(path.join(os.tmpdir(), 'collective-unit-'));
  const child = spawn('sleep', ['1000'], { stdio: 'ignore', argv0: isResumed ? '-incoming' : 'sleep' });
  const qemu = await identifyProcess(child.pid ?? 0);
  if (qemu === undefined) throw new Error('no process');
  const paths = sessionPaths(path.join(folder, 'm'));
  await mkdir(paths.own, { recursive: true });
  const commands: string[] = [];
  let running = true;
  const sockets = new Set<net.Socket>();
  const carryOut = (command: string): object | string | Error | undefined => {
    commands.push(command);
    const answer = answers(command);
    if (answer === undefined || answer instanceof Error) return answer;
    if (command === 'stop' || command === 'cont') running = command === 'cont';
    if (command === 'query-status') return { status: running ? 'running' : 'paused', running };
    if (command === 'quit') child.kill('SIGKILL');
    return answer;
  };
  const server = net.createServer((socket) => {
    sockets.add(socket);
    socket.on('error', () => undefined);
    writeJsonLine(socket, { QMP: {} });
    readJsonLines(socket, {
      lineBytesMax: 1 << 20,
      onValue: (value) => {
        const id = field(value, 'id');
        const answer = carryOut(String(field(value, 'execute')));
        if (answer instanceof Error)
          writeJsonLine(socket, { error: { class: 'GenericError', desc: answer.message }, id });
        else if (answer !== undefined) writeJsonLine(socket, { return: answer, id });
      },
    });
  });
  await new Promise<void>((resolve) => server.listen(paths.qmp, resolve));
  const serial = net.createServer((socket) => void sockets.add(socket.on('error', () => undefined)));
  await new Promise<void>((resolve) => serial.listen(paths.serial, resolve));
  const machines = path.join(folder, 'machines');
  const record: MachineRecord = {
    format: 1,
    spec,
    folder: paths.folder,
    user: null,
    accelerator: 'tcg',
    startedAtMs: 1,
    restarts: 0,
    qemu,
  };
  const disks = new FakeDisks();
  const images = new MemoryImages(machines);
  const log: string[] = [];
  const options = {
    disks,
    records: new MachineRecords(machines),
    images,
    keys: await DiskKeys.open({ diskKeysFolder: path.join(folder, 'disk-keys'), sessionDirectory: folder }),
    machineKeys: {},
    folder: paths.folder,
    user: undefined,
    log: (text: string) => void log.push(text),
  };
  await options.records.write(record);
  onTestFinished(async () => {
    child.kill('SIGKILL');
    for (const socket of sockets) socket.destroy();
    server.close();
    serial.close();
    await rm(folder, { recursive: true, force: true });
  });
  return { record, disks, options, commands, log, isAlive: () => isAlive(qemu), isRunning: () => running };
};

test('a guest that is taken over when its disk cannot be attached just now lives on, and has it when that is possible', async () => {
  // Seen in review: after an update on a full disk the new block daemon could not open an overlay; the guest was killed for it.
  const { record, disks, options, isAlive: lives } = await fakeMachine();
  disks.adopt.mockRejectedValueOnce(new CollectiveError('local-io', 'No space left on device'));
  const unit = await MachineUnit.adopt(record, options);
  await vi.waitFor(() => expect(disks.adopt).toHaveBeenCalledTimes(2), { timeout: 20_000 });
  expect([unit.state.name, await lives()]).toEqual(['running', true]);
  unit.stop(0);
  await unit.over;
  expect([unit.state, await lives()]).toEqual([{ name: 'stopped', how: 'asked' }, false]);
});

test('keys of blocks of a new epoch are kept for a next supervisor and given to the disks, and not for a machine that is over', async () => {
  const { record, disks, options } = await fakeMachine();
  const unit = await MachineUnit.adopt(record, options);
  const { machine } = record.spec;
  const key = Buffer.alloc(32, 5).toString('base64url');
  const blockKeys = [{ epoch: 2, blockNameKey: key, chunkKey: key }];
  await unit.setBlockKeys(blockKeys);
  expect(await options.keys.read(machine)).toEqual({ blockKeys });
  expect(disks.setBlockKeys).toHaveBeenCalledWith(machine, blockKeys);
  unit.stop(0);
  await unit.over;
  expect(await options.keys.read(machine)).toEqual({});
  await expect(unit.setBlockKeys(blockKeys)).rejects.toMatchObject({ code: 'conflict' });
  expect(await options.keys.read(machine)).toEqual({});
});

test('a guest that is taken over and stopped before its disks could be attached is over', async () => {
  const { record, disks, options } = await fakeMachine();
  disks.adopt.mockRejectedValue(new CollectiveError('local-io', 'No space left on device'));
  const unit = await MachineUnit.adopt(record, options);
  await vi.waitFor(() => expect(disks.adopt).toHaveBeenCalled(), { timeout: 20_000 });
  unit.stop(0);
  await unit.over;
  expect(unit.state).toEqual({ name: 'stopped', how: 'asked' });
});

test('a machine that could not be saved goes on though its QEMU does not answer at once, and can be suspended again', async () => {
  // Seen in review: QEMU was silent for longer than a command's time; nobody asked again, and it was `suspending` for ever.
  let refusals = 2;
  const { record, options, commands, isRunning } = await fakeMachine((command) =>
    command === 'query-migrate' && refusals-- > 0 ? new Error('not now') : {},
  );
  const unit = await MachineUnit.adopt(record, options);
  await vi.waitFor(() => expect(commands).toContain('query-status'), { timeout: 20_000 });
  await expect(unit.suspend()).rejects.toMatchObject({ code: 'local-io' }); // it has no memory
  expect([unit.state.name, isRunning(), commands.includes('cont')]).toEqual(['running', true, true]);
  await expect(unit.suspend()).rejects.toMatchObject({ code: 'local-io' });
  unit.stop(0);
  await unit.over;
  expect(unit.state).toEqual({ name: 'stopped', how: 'asked' });
});

test('a machine that could not be saved stands still until its image is gone, and can be stopped meanwhile', async () => {
  for (const isStoppedMeanwhile of [false, true]) {
    const { record, options, commands } = await fakeMachine();
    const remove = options.images.remove.bind(options.images);
    const refused = vi.spyOn(options.images, 'remove').mockRejectedValue(new Error('Input/output error'));
    const unit = await MachineUnit.adopt(record, options);
    await vi.waitFor(() => expect(commands).toContain('query-status'), { timeout: 20_000 });
    const suspended = unit.suspend();
    const outcome = expect(suspended).rejects.toBeDefined();
    await vi.waitFor(() => expect(refused).toHaveBeenCalled(), { timeout: 20_000 });
    expect([unit.state.name, commands.includes('cont')]).toEqual(['suspending', false]);
    if (isStoppedMeanwhile) unit.stop(0);
    else refused.mockImplementation(remove);
    await outcome;
    if (!isStoppedMeanwhile) {
      await vi.waitFor(() => expect([unit.state.name, commands.includes('cont')]).toEqual(['running', true]), {
        timeout: 20_000,
      });
    }
    unit.stop(0);
    await unit.over;
    expect(unit.state).toEqual({ name: 'stopped', how: 'asked' });
  }
});

test('an IDE guest without paging that was stopped by a supervisor that died is started again, but not one that was resumed', async () => {
  // Seen with QEMU 7.2: the writes of before a suspend are not in the statistics after it. A DOS that had written, and whatever it held
  // in memory, would be gone when it is resumed.
  const cpu = 'CPU#0\r\nCR0=00000010 CR2=00000000\r\n';
  const disk = { name: 'system', bus: 'ide', source: { kind: 'zero', diskBytes: 1 << 20 } } as const;
  for (const isResumed of [true, false]) {
    const { record, disks, options, commands } = await fakeMachine(
      (command) => {
        if (command === 'human-monitor-command') return cpu;
        if (command === 'query-blockstats') return [{ 'node-name': 'disk-system', stats: { wr_operations: 0 } }];
        return {};
      },
      { spec: { ...anySpec, disks: [{ ...disk, overlay: { path: '/nowhere', mode: 'temporary' } }] }, isResumed },
    );
    disks.attach = () => Promise.reject(new Error('a new start'));
    await options.images.begin('one');
    const unit = await MachineUnit.adopt(record, options);
    await vi.waitFor(() => expect(commands.some((command) => ['cont', 'quit'].includes(command))).toBe(true), {
      timeout: 20_000,
    });
    expect([isResumed, commands.includes('cont')]).toEqual([isResumed, isResumed]);
    if (isResumed) unit.stop(0);
    await unit.over;
    expect(unit.state).toEqual(isResumed ? { name: 'stopped', how: 'asked' } : { name: 'failed', why: 'a new start' });
  }
});

test('a machine whose supervisor died before its QEMU, or between two, is started; in `maintain` a reboot keeps its system overlay', async () => {
  // Seen in review: a start that waited for its first block in an outage had failed when the software was updated.
  for (const [restarts, keepSystemOverlay, fresh] of [
    [0, false, true],
    [1, false, true],
    [0, true, true],
    [1, true, false],
  ] as const) {
    const disk = { name: 'system', bus: 'virtio', source: { kind: 'zero', diskBytes: 1 << 20 } } as const;
    const disks = [{ ...disk, overlay: { path: '/nowhere', mode: 'temporary' } as const }];
    const {
      record,
      disks: service,
      options,
    } = await fakeMachine(undefined, {
      spec: { ...anySpec, disks, keepSystemOverlay },
    });
    const asked: boolean[] = [];
    service.attach = (...[, { fresh: isFresh }]: Parameters<DiskService['attach']>): Promise<void> => {
      asked.push(isFresh);
      return Promise.reject(new Error('far enough'));
    };
    const unit = await MachineUnit.adopt({ ...record, restarts, qemu: null }, options);
    await unit.over;
    expect(asked).toEqual([fresh]);
    expect(unit.state).toEqual({ name: 'failed', why: 'far enough' });
  }
});

test('an image that is being thrown away cannot be resumed, nor thrown away again, meanwhile', async () => {
  // Seen in review: a resume that came while gigabytes were removed began with an image whose files were gone, and wrote it again.
  const { record, options } = await fakeMachine();
  const digest = '0'.repeat(64) as Digest;
  const image: MemoryImage = {
    format: 2,
    encryption: null,
    machine: 'one',
    spec: record.spec,
    suspendedAtMs: 2,
    startedAtMs: 1,
    restarts: 0,
    generationId: '0b7c3f2e-21a7-4e4f-8d4b-2d5c6e7f8091',
    qemuVersion: '7.2.22',
    machineType: 'pc-q35-7.2',
    cpuModel: 'Westmere-v1',
    accelerator: 'tcg',
    ramDigest: digest,
    deviceBytes: 1,
    deviceDigest: digest,
    layers: null,
  };
  await options.images.begin('one');
  await options.images.commit(image);
  const unit = MachineUnit.atRest(image, options);
  const discarded = unit.discard();
  expect([unit.state.name, unit.image]).toEqual(['suspended', undefined]);
  // A second one would remove the overlays of the machine that was started after the first.
  await expect(unit.discard()).rejects.toMatchObject({ code: 'conflict' });
  await discarded;
  expect([unit.state.name, await options.images.read('one')]).toEqual(['stopped', undefined]);
});
