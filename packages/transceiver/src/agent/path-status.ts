/** What `status` shows of supervisor, machines and block path. Each part may be away; none makes the answer wait long. */
import { ControlClient } from '../blockd/control/control-client.js';
import type { BlockdStatus } from '../blockd/control/control-protocol.js';
import { withTimeout } from '../machine/qmp-client.js';
import { versionOf } from '../supervisor/memory-image.js';
import type { MachineRecord } from '../supervisor/machine-spec.js';
import { MachineRecords } from '../supervisor/machine-record.js';
import { isOver, type MachineState } from '../supervisor/machine-state.js';
import { SupervisorClient } from '../supervisor/supervisor-client.js';
import type { SupervisorStatus } from '../supervisor/supervisor-protocol.js';
import { suspendedMachines } from './suspended-machines.js';
import type { BlockPathStatus, MachineStatus } from './agent-types.js';
import type { Home } from '../home.js';
import type { PathStatus } from './machine-port.js';

const STATUS_TIMEOUT_MS = 2_000;
/** Machines of boot tests are shown while they run. */
export const BOOT_TEST_MACHINE = 'boot-test-';

export async function pathStatus(home: Home): Promise<PathStatus> {
  const [supervisor, blockd, records, suspended] = await Promise.all([
    supervisorStatus(home),
    blockdStatus(home),
    new MachineRecords(home.machinesDirectory).list(() => undefined),
    suspendedMachines(home),
  ]);
  const versions = versionsOf(records);
  const known = new Set(supervisor?.machines.map(({ machine }) => machine));
  for (const { name, version } of suspended) if (!versions.has(name)) versions.set(name, version);
  return {
    supervisor:
      supervisor === undefined
        ? { running: false, wanted: records.length > 0 }
        : {
            running: true,
            pid: supervisor.pid,
            ...(supervisor.software === undefined ? {} : { software: supervisor.software }),
            ...(typeof supervisor.blockd.software === 'string' ? { blockdSoftware: supervisor.blockd.software } : {}),
          },
    troubles: supervisor?.blockd.troubles ?? [],
    blockd: blockPath(blockd),
    machines: [
      ...(supervisor?.machines ?? [])
        .filter(({ machine, state }) => !isOver(state) || !machine.startsWith(BOOT_TEST_MACHINE))
        .map((machine) => machineStatus(machine, versions.get(machine.machine) ?? 0, blockd)),
      // Without a supervisor they are there all the same.
      ...suspended
        .filter(({ name }) => !known.has(name))
        .map(({ name, version, suspendedAtMs }) => ({
          name,
          version,
          state: 'suspended',
          since: Math.floor(suspendedAtMs / 1000),
          details: {},
        })),
    ],
  };
}

async function supervisorStatus(home: Home): Promise<SupervisorStatus | undefined> {
  const client = await SupervisorClient.connect(home).catch(() => undefined);
  if (client === undefined) return undefined;
  try {
    return await withTimeout(client.request('status', {}), STATUS_TIMEOUT_MS, 'the supervisor did not answer');
  } catch {
    return undefined;
  } finally {
    client.close();
  }
}

export async function blockdStatus(home: Home): Promise<BlockdStatus | undefined> {
  const client = await ControlClient.connect(home.blockdSocket).catch(() => undefined);
  if (client === undefined) return undefined;
  try {
    return await withTimeout(client.request('status', {}), STATUS_TIMEOUT_MS, 'blockd did not answer');
  } catch {
    return undefined;
  } finally {
    client.close();
  }
}

/** Which version each machine runs: the version of its disks with the highest one. */
const versionsOf = (records: readonly MachineRecord[]): Map<string, number> =>
  new Map(records.map(({ spec }) => [spec.machine, versionOf(spec)]));

function blockPath(status: BlockdStatus | undefined): BlockPathStatus {
  if (status === undefined) return { running: false };
  const waiting = status.disks.flatMap(({ session, disk, waiting: blocks }) =>
    blocks.map((block) => ({ session, disk, ...block })),
  );
  const first = waiting[0];
  const reason = first?.reason ?? status.lastError?.message;
  return {
    running: true,
    cacheHits: sum(status, 'hits'),
    cacheMisses: sum(status, 'misses'),
    fetchedBytes: status.fetch.link.bytes,
    linkBytesPerSecond: Math.round(status.fetch.link.bytesPerSecond),
    // A block daemon of an earlier version, which an update left running, does not count them.
    ...(Object.keys(status.faults ?? {}).length === 0 ? {} : { faults: status.faults }),
    // One of an earlier version says nothing of it, either.
    ...(status.scrub === null || status.scrub === undefined ? {} : { scrub: status.scrub }),
    ...(first === undefined
      ? {}
      : {
          waitingFor: `${String(waiting.length)} ${waiting.length === 1 ? 'block' : 'blocks'} of ${first.session}${reason === undefined ? '' : ` (${reason})`}`,
        }),
  };
}

/** Reads of images that found their block in the cache, and that did not. */
const sum = (status: BlockdStatus, counter: 'hits' | 'misses'): number =>
  status.disks.reduce((total, disk) => total + (disk.counters?.[counter] ?? 0), 0);

function machineStatus(
  machine: SupervisorStatus['machines'][number],
  version: number,
  blockd: BlockdStatus | undefined,
): MachineStatus {
  const { state } = machine;
  const waits = whyOf(state);
  const disks = (blockd?.disks ?? []).filter(({ session }) => session === machine.machine);
  return {
    name: machine.machine,
    version,
    state: state.name,
    ...(waits === undefined ? {} : { pausedWhy: waits }),
    ...(state.name === 'paused' ? { pausedSince: Math.floor(state.sinceMs / 1000) } : {}),
    since: Math.floor((state.name === 'suspended' ? state.sinceMs : machine.startedAtMs) / 1000),
    details: {
      restarts: machine.restarts,
      accelerator: machine.accelerator?.accelerator ?? null,
      acceleratorReason: machine.accelerator?.reason ?? null,
      qemuPid: machine.qemuPid,
      vncSocket: machine.vncSocket,
      disks: disks.map(({ disk, counters, waiting, clients, busyMs }) => ({
        disk,
        clients,
        busyMs,
        counters: counters ?? null,
        waiting: waiting.length,
      })),
    },
  };
}

const whyOf = (state: MachineState): string | undefined => ('why' in state ? state.why : undefined);
