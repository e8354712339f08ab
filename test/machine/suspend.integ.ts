/** A machine is suspended and goes on where it stood: after its processes are gone, in an outage, and when someone is killed on the way. */
import { existsSync } from 'node:fs';
import { open, readFile, stat, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { expect, test } from 'vitest';
import { filesWith } from '../support/files-with.js';
import { withinTime } from '../support/promise-time.js';
import { eventually, type GuestConsole, type MachineLab, withLab } from './machine-lab.js';

const READY = /TINY READY/;

/** A shell that counts in memory and says so; a new one would begin at 1. */
const count = async (console: GuestConsole): Promise<void> => {
  console.type('i=0; while true; do i=$((i+1)); echo n""=$i; sleep 0.1; done');
  await console.sees(/n=20\r/);
};
const counted = (text: string): number[] => [...text.matchAll(/n=(\d+)\r/g)].map((match) => Number(match[1]));

/** The counter goes on in the console of the resumed machine, and nothing was left out or began anew. */
const countsOn = async (lab: MachineLab, machine: string, last: number): Promise<void> => {
  const console = await lab.console(machine);
  await eventually('the counter goes on', () => counted(console.text).length > 10);
  const numbers = counted(console.text);
  // What QEMU had not handed over yet at the stop may be lost with it: a character or two, never a step of the guest.
  expect(numbers[0]).toBeGreaterThanOrEqual(last);
  expect(numbers[0]).toBeLessThan(last + 4);
  expect(numbers).toEqual(numbers.map((_, index) => (numbers[0] ?? 0) + index));
};

const supervisorOf = async (lab: MachineLab): Promise<number> => (await lab.client.request('status', {})).pid;

const files = (lab: MachineLab, machine: string) => ({
  image: path.join(lab.home.machinesDirectory, machine, 'memory/image.json'),
  ram: path.join(lab.home.machinesDirectory, machine, 'memory/ram'),
  record: path.join(lab.home.machinesDirectory, machine, 'machine.json'),
});

for (const bus of ['virtio', 'sata'] as const) {
  test(`${bus}: a suspended machine survives the end of supervisor and block daemon and goes on where it stood, its disks too`, () =>
    withLab(async (lab) => {
      await lab.start('one', { bus });
      const console = await lab.console('one');
      await console.sees(READY);
      // The disk that is not the person's: SATA disks are found in any order, another one after a reboot.
      const disk = '$(for d in /dev/[sv]d[ab]; do grep -q "^$d " /proc/mounts || echo $d; done)';
      // On the person's disk; on the system disk, which is made anew at a reboot; and in memory.
      console.type('echo kept >/home/file; echo in-memory >/etc/mark');
      console.type(
        `echo on-system | dd of=${disk} bs=512 seek=90000 conv=notrunc,fsync 2>/dev/null; sync; echo syn""ced`,
      );
      await console.sees(/synced/);
      // As `mark-8000000-stranger` only in the guest's memory, on both of its disks, and never typed.
      console.type(
        `m=mark-$((2000*4000))-stranger; echo $m >/home/mark; echo $m | dd of=${disk} bs=512 seek=90008 conv=notrunc,fsync 2>/dev/null; sync; echo mar""ked`,
      );
      await console.sees(/marked/);
      await count(console);
      const askedAt = performance.now();
      const { state } = await lab.client.request('suspend', { machine: 'one' });
      const tookMs = performance.now() - askedAt;
      expect(state.name).toBe('suspended');
      await console.ended;
      const last = counted(console.text).at(-1) ?? 0;
      expect((await lab.processes()).filter((line) => line.includes('qemu'))).toEqual([]);
      const { image, ram, record } = files(lab, 'one');
      expect([existsSync(image), existsSync(record), existsSync(lab.overlayPath('one', 'system'))]).toEqual([
        true,
        false,
        true,
      ]);
      const found = await stat(ram);
      expect(found.mode & 0o777).toBe(0o600);
      expect(found.blocks * 512).toBeLessThan(found.size);
      // Nothing that a stranger finds on the disk says what was in memory, or on its disks; and the key is nowhere in the home.
      expect(await filesWith(lab.home.directory, 'mark-8000000-stranger')).toEqual([]);
      expect(await filesWith(lab.home.directory, lab.diskKey)).toEqual([]);
      await lab.client.request('shutdown', {});
      await eventually('no process is left', async () => (await lab.processes()).length === 0);
      await lab.reconnect();
      expect(await lab.state('one')).toMatchObject({ name: 'suspended' });
      for (const wrong of [{}, { diskKey: Buffer.alloc(64, 1).fill(2, 0, 9).toString('base64url') }])
        await expect(lab.client.request('resume', { machine: 'one', ...wrong })).rejects.toMatchObject({
          code: 'wrong-key',
        });
      expect(await lab.state('one')).toMatchObject({ name: 'suspended' });
      const resumedAt = performance.now();
      await lab.resume('one');
      await lab.reaches('one', 'running');
      globalThis.console.log(
        `${bus}: suspended in ${tookMs.toFixed(0)} ms, resumed in ${(performance.now() - resumedAt).toFixed(0)} ms`,
      );
      await countsOn(lab, 'one', last);
      expect(existsSync(image)).toBe(false);
      const again = await lab.console('one');
      await again.interrupt();
      const look = `echo 3 >/proc/sys/vm/drop_caches; cat /home/file /etc/mark; dd if=${disk} bs=512 skip=90000 count=1 2>/dev/null | tr -d '\\000'; echo do""ne`;
      again.type(look);
      await again.sees(/kept\s+in-memory\s+on-system\s+done/);
      again.type('reboot');
      await again.sees(READY);
      again.type(look);
      await again.sees(/kept\s+cat: [^\n]*\s+done/);
    }));
}

test('in an outage, paused in mid-boot, a machine is suspended within 1 s, and its read is repeated when it is resumed and the line is back', () =>
  withLab(async (lab) => {
    await lab.start('one');
    await eventually('the guest is in mid-boot', () => lab.repository.requests.length > 60);
    await lab.repository.goAway();
    await lab.reaches('one', 'paused');
    await withinTime('suspend', 1_000, () => lab.client.request('suspend', { machine: 'one' }));
    await lab.resume('one');
    // Still away: it goes on to where it lacks the block again.
    await lab.reaches('one', 'paused');
    await lab.repository.comeBack();
    await (await lab.console('one')).sees(READY);
  }));

test('kill -9 of the supervisor in the middle of a suspend: the guest goes on; of QEMU when its memory is being copied: suspended all the same', () =>
  withLab(async (lab) => {
    await lab.start('one', { memoryBytes: 1 << 30 });
    const console = await lab.console('one');
    await console.sees(READY);
    // Half a GiB of memory that is not zero, so that copying takes a while.
    console.type(
      'mount -t tmpfs -o size=700m none /mnt 2>/dev/null || mkdir -p /mnt; dd if=/dev/urandom of=/mnt/big bs=1048576 count=500 2>/dev/null; echo fil""led',
    );
    await console.sees(/filled/, 1, 500_000);
    await count(console);
    const { image, ram } = files(lab, 'one');
    const isCopying = async (): Promise<boolean> => ((await stat(ram).catch(() => undefined))?.blocks ?? 0) > 0;

    const supervisor = await supervisorOf(lab);
    void lab.client.request('suspend', { machine: 'one' }).catch(() => undefined);
    await eventually('the memory is being copied', isCopying);
    await lab.kill(supervisor);
    expect(existsSync(image)).toBe(false);
    await console.ended;
    const last = counted(console.text).at(-1) ?? 0;
    await lab.reconnect();
    expect((await lab.status('one')).restarts).toBe(0);
    await eventually('it runs', async () => (await lab.state('one')).name === 'running');
    const between = await lab.console('one');
    await eventually('the counter goes on', () => (counted(between.text).at(-1) ?? 0) > last + 5);

    const { qemuPid } = await lab.status('one');
    const suspended = lab.client.request('suspend', { machine: 'one' });
    await eventually('the memory is being copied again', isCopying);
    await lab.kill(qemuPid);
    expect((await suspended).state.name).toBe('suspended');
    await between.ended;
    const lastBefore = counted(between.text).at(-1) ?? 0;
    await lab.resume('one');
    await lab.reaches('one', 'running');
    await countsOn(lab, 'one', lastBefore);
  }));

test('kill -9 of QEMU before its devices are saved, with or without its supervisor: the memory is lost and said to be, the disk of the person is as it was synced', () =>
  withLab(async (lab) => {
    const { image } = files(lab, 'one');
    for (const isSupervisorKilled of [false, true]) {
      await lab.start('one');
      const console = await lab.console('one');
      await console.sees(READY);
      if (isSupervisorKilled) {
        console.type('cat /home/file');
        await console.sees(/kept\r?\n/);
      } else {
        console.type('echo kept >/home/file; sync; echo syn""ced');
        await console.sees(/synced/);
      }
      // One that answers nothing is killed while it is asked for its state, and never after that.
      const { qemuPid } = await lab.status('one');
      process.kill(qemuPid ?? 0, 'SIGSTOP');
      const suspended = lab.client.request('suspend', { machine: 'one' }).then(
        () => 'suspended',
        (error: unknown) => String(error),
      );
      await lab.reaches('one', 'suspending');
      await eventually('the suspend has begun', () => existsSync(path.dirname(image)));
      if (isSupervisorKilled) await lab.kill(await supervisorOf(lab));
      await lab.kill(qemuPid);
      expect(await suspended).toMatch(isSupervisorKilled ? /supervisor has ended/ : /what it had in memory is lost/);
      if (isSupervisorKilled) await lab.reconnect();
      await eventually('it is over', async () => (await lab.state('one')).name === 'failed');
      expect(await lab.state('one')).toMatchObject({
        why: expect.stringContaining('what it had in memory is lost') as unknown,
      });
      expect([existsSync(path.dirname(image)), existsSync(lab.overlayPath('one', 'system'))]).toEqual([false, false]);
      expect(existsSync(lab.overlayPath('one', 'user'))).toBe(true);
    }
    await lab.start('one');
    const console = await lab.console('one');
    await console.sees(READY);
    console.type('cat /home/file');
    await console.sees(/kept\r?\n/);
  }));

test('a shutdown that stops machines leaves one that is just being suspended its image, and ends', () =>
  withLab(async (lab) => {
    await lab.start('one');
    await lab.reaches('one', 'running');
    const { blockd } = await lab.client.request('status', {});
    const { image } = files(lab, 'one');
    let suspended = lab.client.request('suspend', { machine: 'one' });
    for (let tries = 1; ; tries += 1) {
      await eventually('the image is there', () => existsSync(image));
      // Its disks cannot be let go for a moment: it is still `suspending`.
      process.kill(blockd.pid ?? 0, 'SIGSTOP');
      if ((await lab.state('one')).name === 'suspending') break;
      // That moment was over before it was seen.
      process.kill(blockd.pid ?? 0, 'SIGCONT');
      expect(tries).toBeLessThan(10);
      await suspended;
      await lab.resume('one');
      await lab.reaches('one', 'running');
      await eventually('the image it came from is gone', () => !existsSync(image)); // or it is taken for the next one
      suspended = lab.client.request('suspend', { machine: 'one' });
    }
    // Seen: refused because of the image, with every later start refused because of the shutdown that was not carried out.
    const shutDown = lab.client.request('shutdown', { stopMachines: true, deadlineMs: 0 }).then(
      () => 'done',
      (error: unknown) => String(error),
    );
    await lab.status('one');
    process.kill(blockd.pid ?? 0, 'SIGCONT');
    expect([await shutDown, (await suspended).state.name]).toEqual(['done', 'suspended']);
    await lab.reconnect();
    expect(await lab.state('one')).toMatchObject({ name: 'suspended' });
    await lab.client.request('discard', { machine: 'one' });
  }));

test('a memory image of other software or with a flipped bit is refused and stays; thrown away, the machine starts anew with its disk', () =>
  withLab(async (lab) => {
    await lab.start('one');
    const console = await lab.console('one');
    await console.sees(READY);
    console.type('echo kept >/home/file; sync; echo syn""ced');
    await console.sees(/synced/);
    await lab.client.request('suspend', { machine: 'one' });
    await expect(lab.start('one')).rejects.toMatchObject({ code: 'suspended' });
    const { image, ram } = files(lab, 'one');
    const [text, stopped] = [await readFile(image, 'utf8'), await supervisorOf(lab)];
    await lab.kill(stopped);
    await writeFile(image, text.replace(/"qemuVersion":"[^"]*"/, '"qemuVersion":"1.2.3"'));
    await lab.reconnect();
    await expect(lab.resume('one')).rejects.toMatchObject({ code: 'cannot-resume' });
    await lab.kill(await supervisorOf(lab));
    await writeFile(image, text);
    const memory = await open(ram, 'r+');
    const byte = Buffer.alloc(1);
    await memory.read(byte, 0, 1, 1 << 20);
    await memory.write(Buffer.of((byte[0] ?? 0) ^ 1), 0, 1, 1 << 20);
    await memory.close();
    await lab.reconnect();
    await lab.resume('one');
    const state = await lab.reaches('one', 'suspended');
    expect(state).toMatchObject({ why: expect.stringContaining('damaged') as unknown });
    await lab.client.request('discard', { machine: 'one' });
    expect(existsSync(image)).toBe(false);
    expect(existsSync(lab.overlayPath('one', 'system'))).toBe(false);
    await lab.start('one');
    const again = await lab.console('one');
    await again.sees(READY);
    again.type('cat /home/file');
    await again.sees(/kept\r?\n/);
  }));
