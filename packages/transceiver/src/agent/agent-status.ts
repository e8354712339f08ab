/** What `status` says of agent, session and repository, put together with what the machine port says. */
import { SOFTWARE } from '../software.js';
import type { AgentStatus, PrefetchStatus, Stay } from './agent-types.js';
import type { DataStatus } from './data-types.js';
import type { DeviceFile } from './device-file.js';
import type { PathStatus } from './machine-port.js';
import type { Session } from './session.js';

const REVOKED =
  'This device has been revoked by its owner: nothing of it reaches the repository any more. What is only here stays until you remove it with collective logout --remove --discard.';
/** Said while machines are there, until QEMU runs in namespaces of its own (DESIGN §4). */
const NOT_CONFINED =
  'Not confined: a machine that breaks out of QEMU, or its network, reaches more than it should; see collective doctor.';

export type StatusParts = {
  readonly homeDirectory: string;
  readonly since: number;
  readonly session: Session | undefined;
  readonly device: DeviceFile | undefined;
  readonly stay: Stay;
  readonly path: PathStatus;
  readonly prefetch: PrefetchStatus | undefined;
  /** By machine. */
  readonly data: ReadonlyMap<string, DataStatus>;
};

export const agentStatus = ({
  homeDirectory,
  since,
  session,
  device,
  stay,
  path,
  prefetch,
  data,
}: StatusParts): AgentStatus => ({
  agent: { pid: process.pid, since, home: homeDirectory, software: SOFTWARE },
  session:
    session === undefined
      ? null
      : {
          account: session.keys.account,
          since: session.keys.since,
          connected: session.isConnected !== false,
          stay,
          keyEpoch: session.epoch,
          ...(session.isRevoked ? { deviceRevoked: true } : {}),
        },
  repository:
    device === undefined
      ? null
      : {
          origin: device.repository.origin,
          identity: device.repository.identity,
          reachable: session?.isConnected ?? null,
          newsAt: session?.trust.heads?.createdAt ?? null,
        },
  device: device !== undefined,
  supervisor: path.supervisor,
  blockd: path.blockd,
  prefetch: prefetch ?? null,
  machines: withData(path.machines, data),
  notes: [
    ...(session?.isRevoked === true ? [REVOKED] : []),
    ...[session?.trust.staleNote(), session?.profileNote].filter((text) => text !== undefined),
    ...path.troubles.map(({ message }) => message),
    ...(path.machines.length === 0 ? [] : [NOT_CONFINED]),
  ],
});

/** Those too that do not run and have data of the person here. */
const withData = (machines: AgentStatus['machines'], data: StatusParts['data']): AgentStatus['machines'] => [
  ...machines.map((machine) => {
    const found = data.get(machine.name);
    return found === undefined ? machine : { ...machine, data: found };
  }),
  ...[...data]
    .filter(([name]) => !machines.some((machine) => machine.name === name))
    .map(([name, found]) => ({ name, version: 0, state: 'stopped', data: found, details: {} })),
];
