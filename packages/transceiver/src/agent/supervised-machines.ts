/**
 * The machine port over the supervisor's and blockd's control sockets. Calls hold no connection between them, so that
 * supervisor, blockd and agent may each die and come back: whoever is away when it is needed is started or waited for, and a
 * keeper starts a supervisor that died while machines are there.
 */
import { randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { readdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { CollectiveError, hasCode } from '@collective/shared';
import { ControlClient } from '../blockd/control/control-client.js';
import { isOver } from '../supervisor/machine-state.js';
import { SupervisorClient } from '../supervisor/supervisor-client.js';
import { exportDisk, exportSource } from './block-export.js';
import { resetMachine } from './reset-machine.js';
import { chooseDiskKey } from './disk-key-ring.js';
import { scrubCache } from './cache-scrub.js';
import { watchConsole } from './console-watch.js';
import type { Home } from '../home.js';
import type { BlockOrigin, BootTestPlan, MachinePlan, MachinePort } from './machine-port.js';
import { bootTestSpec, newDiskKey, specOf } from './machine-spec-plan.js';
import { openMaintainedDisk } from './maintained-disk.js';
import { runInMaintained, shutDownCleanly } from './maintained-machine.js';
import { BOOT_TEST_MACHINE, blockdStatus, pathStatus } from './path-status.js';
import { missingBlocks } from './missing-blocks.js';
import { Subscription } from './subscription.js';
import { discardMachine, resumeMachine, suspendedMachines, suspendMachine } from './suspended-machines.js';
import { SupervisorKeeper } from './supervisor-keeper.js';

/** A guest that was asked to shut down has so long. */
const BLOCKD_WAIT_MS = 30_000;
const STOP_DEADLINE_MS = 60_000;
/**
 * A boot test goes on for so long after its prompt: its trace is what everybody's first start fetches ahead. Not until the guest is quiet (20 s, blockd/boot-trace.ts):
 * a publisher with an emulated processor waits for the test already, and the boots of others say the rest.
 */
const AFTER_PROMPT_MS = 5_000;

/** Clears away exports of an agent that died. */
export async function openSupervisedMachines(home: Home): Promise<MachinePort> {
  await endStaleExports(home);
  let preparing = Promise.resolve();
  const endingExports = new Map<string, Promise<void>>();
  const keeper = new SupervisorKeeper(home);
  let blockd: ControlClient | undefined;
  let opening: Promise<ControlClient> | undefined;
  return {
    status: async () => pathStatus(home),
    prepare: (blocks) => {
      preparing = ensureBlockd(home, blocks).catch(() => undefined); // the start that needs it will say why it cannot
    },
    start: async (plan, signal) => startMachine(home, plan, signal).finally(() => keeper.wake()),
    stop: async (name, options) => stopMachine(home, name, options),
    suspended: async () => suspendedMachines(home),
    suspend: async (name) => suspendMachine(home, name),
    resume: async (name, { blocks, ...keys }, signal) =>
      resumeMachine(home, name, { blocks: repositoryOf(blocks), ...keys }, signal).finally(() => keeper.wake()),
    discard: async (name) => discardMachine(home, name),
    consoleSocket: async (name) => {
      await withSupervisor(home, async (client) => assertMachine(client, name)).catch((error: unknown) => {
        throw hasCode(error, 'local-io') ? notRunning(name, error) : error; // no supervisor: nothing runs
      });
      return home.supervisorSocket;
    },
    waitForConsole: async (name, options) => waitForConsole(home, name, options),
    export: async (plan, options) => {
      // The one before on this socket may have been told to end and not be over yet: its clearing away would take ours.
      await endingExports.get(plan.socketPath);
      await ensureBlockd(home, plan.blocks);
      const serving = exportDisk(plan, { home, ...options });
      const over = serving.catch(() => undefined);
      options.signal.addEventListener('abort', () => endingExports.set(plan.socketPath, over), { once: true });
      await serving.finally(() => endingExports.delete(plan.socketPath));
    },
    missing: async (lists, options) => missingBlocks(home, lists, options),
    exportSource: async (plan, options) => {
      await endingExports.get(plan.socketPath);
      await ensureBlockd(home, plan.blocks);
      await exportSource(plan, { home, ...options });
    },
    authorize: async (blocks) =>
      withSupervisor(home, async (client) => void (await client.request('repository', repositoryOf(blocks)))).catch(
        () => undefined, // whoever starts one says it then
      ),
    addKeys: async (name, blockKeys) =>
      void (await askMachine(home, name, async (client) => client.request('keys', { machine: name, blockKeys }))),
    blockd: async (blocks) => {
      if (blockd !== undefined && !blockd.isClosed) return blockd;
      opening ??= (async () => {
        // Only now: a token that has to be asked for may be long in coming.
        await ensureBlockd(home, await blocks());
        blockd = await ControlClient.connect(home.blockdSocket, { waitMs: BLOCKD_WAIT_MS });
        return blockd;
      })().finally(() => (opening = undefined));
      return opening;
    },
    sync: async (name) =>
      void (await askMachine(home, name, async (client) => client.request('sync', { machine: name }))),
    show: async (name, disk) =>
      void (await askMachine(home, name, async (client) =>
        client.request('show-disk', { machine: name, name: disk.disk, source: disk.source }),
      )),
    hide: async (name, disk) =>
      void (await askMachine(home, name, async (client) => client.request('hide-disk', { machine: name, name: disk }))),
    reset: async (name) => resetMachine(home, name),
    scrub: async (request, options) => scrubCache(home, request, options),
    bootTest: async (plan) => bootTest(home, plan),
    runInMaintained: async (machine, run) => runInMaintained(home, machine, run),
    shutDownCleanly: async (machine) => shutDownCleanly(home, machine),
    openMaintainedDisk: async (plan, blocks) => {
      await ensureBlockd(home, blocks);
      return openMaintainedDisk(plan, home);
    },
    shutdown: async () => {
      await preparing; // what is just being started must be ended as well
      await endSupervisor(home); // refused while machines are there; else the keeper has nothing to keep
    },
    leave: async () => {
      await keeper.close(); // else it would start the supervisor again
      await preparing;
      const client = await SupervisorClient.connect(home).catch(() => undefined);
      if (client === undefined) return;
      const closed = new Promise<void>((resolve) => client.once('close', resolve));
      await client.request('leave', {});
      await closed;
    },
    close: async () => {
      blockd?.close();
      await keeper.close();
      await preparing;
    },
  };
}

async function withSupervisor<T>(
  home: Home,
  act: (client: SupervisorClient) => Promise<T>,
  options: { readonly mayStart?: boolean } = {},
): Promise<T> {
  const client = options.mayStart === true ? await SupervisorClient.open(home) : await SupervisorClient.connect(home);
  try {
    return await act(client);
  } finally {
    client.close();
  }
}

/** The token is for private blocks alone: public ones go on without any agent. */
const repositoryOf = ({ origin, pin, token }: BlockOrigin): { origin: string; pin?: string; token?: string } => ({
  origin,
  ...(pin === undefined ? {} : { pin }),
  ...(token === undefined ? {} : { token }),
});

/** Of a machine that runs. Errors: `not-found`. */
async function askMachine<T>(home: Home, name: string, ask: (client: SupervisorClient) => Promise<T>): Promise<T> {
  return withSupervisor(home, async (client) => {
    await assertMachine(client, name);
    return ask(client);
  }).catch((error: unknown) => {
    throw hasCode(error, 'local-io') && !existsSync(home.supervisorSocket) ? notRunning(name, error) : error;
  });
}

async function ensureBlockd(home: Home, blocks: BlockOrigin): Promise<void> {
  await withSupervisor(home, async (client) => client.request('repository', repositoryOf(blocks)), { mayStart: true });
}

async function startMachine(
  home: Home,
  plan: MachinePlan,
  signal: AbortSignal,
): Promise<{ readonly notes: readonly string[] }> {
  return withSupervisor(
    home,
    async (client) => {
      // First, so that a machine that runs keeps its maps.
      const { machines } = await client.request('status', {});
      if (machines.some(({ machine, state }) => machine === plan.name && !isOver(state))) {
        throw new CollectiveError('in-use', `${plan.name} is running already.`, { data: { appliance: plan.name } });
      }
      const subscription = await Subscription.open(home.machinesDirectory, plan.name);
      const diskKey = chooseDiskKey(plan.diskKeys, await subscription.keyChecks(), `a disk of ${plan.name}`);
      const spec = await specOf(plan, subscription);
      await client.request('repository', repositoryOf(plan.blocks));
      const { blockKeys } = plan;
      await client.request('start', { ...spec, diskKey, ...(blockKeys === undefined ? {} : { blockKeys }) });
      const started = client.waitForState(
        plan.name,
        (state) => state.name === 'running' || state.name === 'paused',
        signal,
      );
      await started.catch(async (error: unknown) => {
        if (signal.aborted) await client.request('stop', { machine: plan.name, deadlineMs: 0 }).catch(() => undefined);
        throw error;
      });
      const { machines: now } = await client.request('status', {});
      const accelerator = now.find(({ machine }) => machine === plan.name)?.accelerator;
      return {
        notes: accelerator?.accelerator === 'tcg' ? [`${plan.name} runs without KVM: ${accelerator.reason}.`] : [],
      };
    },
    { mayStart: true },
  );
}

async function stopMachine(
  home: Home,
  name: string,
  options: { readonly force: boolean; readonly wait: boolean },
): Promise<void> {
  await withSupervisor(home, async (client) => {
    await client.request('stop', { machine: name, deadlineMs: options.force ? 0 : STOP_DEADLINE_MS });
    if (options.wait) await client.waitForState(name, isOver);
  }).catch((error: unknown) => {
    if (!hasCode(error, 'local-io') && !hasCode(error, 'not-found')) throw error;
    throw notRunning(name, error);
  });
}

const notRunning = (name: string, cause?: unknown): CollectiveError =>
  new CollectiveError('not-found', `${name} is not running.`, { cause });

async function assertMachine(client: SupervisorClient, name: string): Promise<void> {
  const { machines } = await client.request('status', {});
  if (!machines.some(({ machine, state }) => machine === name && !isOver(state))) throw notRunning(name);
}

async function waitForConsole(
  home: Home,
  name: string,
  wanted: { readonly text: string; readonly timeoutMs: number; readonly signal: AbortSignal },
): Promise<void> {
  const client = await SupervisorClient.connect(home);
  const watcher = await SupervisorClient.connect(home);
  const ended = new AbortController();
  try {
    const console = await client.console(name);
    // The console of a machine that is over stays open for its last words: its end is seen by its state.
    void watcher.waitForState(name, isOver, ended.signal).then(
      (state) =>
        ended.abort(
          new CollectiveError(
            'no-boot',
            `${name} ended (${'why' in state && state.why !== undefined ? state.why : state.name}).`,
          ),
        ),
      () => undefined,
    );
    await watchConsole(console, { name, ...wanted, signal: AbortSignal.any([wanted.signal, ended.signal]) });
  } catch (error) {
    if (!hasCode(error, 'no-boot') || ended.signal.aborted) throw error;
    const state = await howItIs(watcher, name).catch(() => undefined);
    if (state === undefined) throw error;
    throw new CollectiveError('no-boot', `${error.message}\nIt is ${state}.`, { cause: error });
  } finally {
    ended.abort();
    client.close();
    watcher.close();
  }
}

/** `running`, `paused (waits for block …)`; undefined: it is over. */
async function howItIs(client: SupervisorClient, name: string): Promise<string | undefined> {
  const { machines } = await client.request('status', {});
  const state = machines.find(({ machine }) => machine === name)?.state;
  if (state === undefined || isOver(state)) return undefined;
  return 'why' in state && state.why !== undefined ? `${state.name} (${state.why})` : state.name;
}

async function bootTest(home: Home, plan: BootTestPlan): Promise<ReadonlyMap<string, Buffer>> {
  const machine = `${BOOT_TEST_MACHINE}${randomBytes(4).toString('hex')}`;
  const folder = join(home.exportsDirectory, machine);
  await ensureBlockd(home, plan.blocks);
  try {
    const spec = await bootTestSpec(plan, { machine, folder });
    await withSupervisor(home, async (client) => {
      // Nobody will ever want to read what it leaves.
      await client.request('start', { ...spec, diskKey: newDiskKey() });
      await client
        .waitForState(machine, (state) => state.name === 'running' || state.name === 'paused', plan.signal)
        .catch((cause: unknown) => {
          if (plan.signal.aborted) throw cause;
          throw new CollectiveError(
            'no-boot',
            `${plan.name} could not be started: ${cause instanceof Error ? cause.message : String(cause)}`,
            { cause },
          );
        });
    });
    await waitForConsole(home, machine, {
      text: plan.text ?? 'login',
      timeoutMs: plan.timeoutMs,
      signal: plan.signal,
    }).catch((error: unknown) => {
      if (!hasCode(error, 'no-boot')) throw error;
      throw new CollectiveError('no-boot', error.message.replaceAll(machine, plan.name), { cause: error });
    });
    await setTimeout(AFTER_PROMPT_MS, undefined, { signal: plan.signal });
    return await tracesOf(plan, { machine, folder, blockdSocket: home.blockdSocket });
  } finally {
    await stopMachine(home, machine, { force: true, wait: true }).catch(() => undefined);
    await rm(folder, { recursive: true, force: true });
    await rm(join(home.machinesDirectory, machine), { recursive: true, force: true });
  }
}

/** What the machine has touched of its system disks so far; without those that are not known, because blockd has died meanwhile, say. */
async function tracesOf(
  { disks }: BootTestPlan,
  of: { readonly machine: string; readonly folder: string; readonly blockdSocket: string },
): Promise<ReadonlyMap<string, Buffer>> {
  const traces = new Map<string, Buffer>();
  const client = await ControlClient.connect(of.blockdSocket).catch(() => undefined);
  if (client === undefined) return traces;
  try {
    for (const { description } of disks) {
      const { name, kind, root } = description;
      if (kind !== 'system' || root === null) continue;
      const path = join(of.folder, `${name}.trace`);
      const bytes = await client
        .request('trace', { session: of.machine, disk: name, path })
        .then(async ({ touches }) => (touches === 0 ? undefined : readFile(path)))
        .catch(() => undefined);
      if (bytes !== undefined) traces.set(name, bytes);
    }
  } finally {
    client.close();
  }
  return traces;
}

async function endSupervisor(home: Home): Promise<void> {
  const client = await SupervisorClient.connect(home).catch(() => undefined);
  if (client === undefined) return;
  try {
    await client.request('shutdown', {});
    if (!client.closed) await new Promise<void>((resolve) => client.once('close', resolve));
  } finally {
    client.close();
  }
}

/**
 * Ends what an agent that died has left. Each export and boot test has a folder of its name as long as it lives: that tells
 * it from an appliance, which may have any name.
 */
async function endStaleExports(home: Home): Promise<void> {
  const left = new Set(await readdir(home.exportsDirectory).catch(() => []));
  if (left.size === 0) return;
  const status = await blockdStatus(home);
  const sessions = new Set((status?.disks ?? []).map(({ session }) => session));
  const supervisor = await SupervisorClient.connect(home).catch(() => undefined);
  if (supervisor !== undefined) {
    const { machines } = await supervisor.request('status', {});
    for (const { machine, state } of machines) {
      sessions.delete(machine);
      if (left.has(machine) && !isOver(state)) await supervisor.request('kill', { machine }).catch(() => undefined);
    }
    supervisor.close();
  }
  const stale = [...sessions].filter((session) => left.has(session));
  if (stale.length > 0) {
    const client = await ControlClient.connect(home.blockdSocket);
    for (const session of stale) await client.request('detach', { session }).catch(() => undefined);
    client.close();
  }
  await rm(home.exportsDirectory, { recursive: true, force: true });
}
