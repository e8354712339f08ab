/**
 * The supervisor's control protocol, on the unix socket HOME/run/supervisor.sock (0600): one JSON value a line.
 *
 *   request  {"id": N, "method": M, "params": {…}}
 *   reply    {"id": N, "result": {…}}  or  {"id": N, "error": {"code", "message", "data"}}      codes of the error table
 *   event    {"event": "machine", "machine": ID, "state": {…}}                             on connections that asked for `events`
 *
 * | method | params | result |
 * |---|---|---|
 * | status | | SupervisorStatus |
 * | start | a MachineSpec, diskKey, blockKeys | at once; `exists` when that machine is not over. The rest comes as events |
 * | stop | machine, deadlineMs (default 60,000; 0: at once), onlyIfPreparing (default false) | at once: state. `not-found` |
 * | suspend | machine | when only its memory image is left: state. `not-found`, `in-use`, `disk-full`, `local-io`: it goes on then |
 * | resume | machine, diskKey, blockKeys | at once: state; suspended again when it fails. `not-found`, `conflict`, `cannot-resume`, `wrong-key` |
 * | keys | machine, blockKeys | these keys of blocks take the place of those of its start, as after a new epoch. `not-found`, `conflict` when it does not run |
 * | discard | machine | state: the memory image is thrown away. `not-found`, `conflict` |
 * | sync | machine | when the guest's agent, if it has one that answers, has brought its file systems onto their disks. `not-found`, `in-use` |
 * | show-disk | machine, name, source | when the running guest has this disk beside its own, read-only. `exists`, `in-use`, `block-unavailable`, `local-io` |
 * | hide-disk | machine, name | when it has it no more. `not-found`, `in-use`: the guest does not let go of it |
 * | kill | machine | at once: state |
 * | console | machine, tailBytes (default: all that is kept) | then the connection is the serial port, raw, both ways |
 * | type | machine, text | typed on the serial port |
 * | guest-run | machine, command, timeoutMs | exitCode, output: a shell command by the guest agent of a machine that keeps its system overlay (maintain). `not-allowed`, `not-found` without an agent, `local-io` |
 * | screendump | machine | png (base64) |
 * | repository | as in blockd's protocol | told to blockd, now and after each restart of it; the token is on no disk |
 * | events | | |
 * | agent | stays | the asker is the home's agent; `stays` false before it ends in order. One that ends otherwise while machines run is started again |
 * | leave | | ends the supervisor alone: machines and blockd go on, and the next supervisor adopts them |
 * | shutdown | stopMachines (default false), deadlineMs | ends the supervisor and blockd; `in-use` while machines run |
 */
import { integerField, strictObject } from '@collective/shared';
import { type Static, type TSchema, Type } from '@collective/schema';
import { CONTROL_METHODS, diskKeyField } from '../blockd/control/control-protocol.js';
import { blockKeysField } from '../blockd/private/block-key-ring.js';
import type { GuestCommandResult } from '../machine/guest-exec.js';
import { machineIdField, machineSpecSchema, shownDiskProperties } from './machine-spec.js';
import type { BlockdTrouble } from './blockd-troubles.js';
import type { MachineState, MachineStatus } from './machine-state.js';

export const SUPERVISOR_PROTOCOL = 1;
/** The longest request: a `start`. */
export const REQUEST_BYTES_MAX = 256 << 10;
/** The longest reply: a screendump. */
export const REPLY_BYTES_MAX = 64 << 20;
export const STOP_DEADLINE_MS = 60_000;

const deadlineField = integerField({ min: 0, max: 3_600_000 });

const keyFields = { diskKey: Type.Optional(diskKeyField), blockKeys: Type.Optional(blockKeysField) };

export const SUPERVISOR_METHODS = {
  status: strictObject({}),
  /** `diskKey` and `blockKeys`: never in an answer, the machine's record or a log. */
  start: strictObject({ ...machineSpecSchema.properties, ...keyFields }),
  stop: strictObject({
    machine: machineIdField,
    deadlineMs: Type.Optional(deadlineField),
    /** Whoever began to start or resume it does not want it any more, unless it is there already. */
    onlyIfPreparing: Type.Optional(Type.Boolean()),
  }),
  suspend: strictObject({ machine: machineIdField }),
  resume: strictObject({ machine: machineIdField, ...keyFields }),
  keys: strictObject({ machine: machineIdField, blockKeys: blockKeysField }),
  discard: strictObject({ machine: machineIdField }),
  sync: strictObject({ machine: machineIdField }),
  'show-disk': strictObject({ machine: machineIdField, ...shownDiskProperties }),
  'hide-disk': strictObject({ machine: machineIdField, name: shownDiskProperties.name }),
  kill: strictObject({ machine: machineIdField }),
  console: strictObject({ machine: machineIdField, tailBytes: Type.Optional(integerField({ min: 0, max: 1 << 20 })) }),
  type: strictObject({ machine: machineIdField, text: Type.String({ maxLength: 65_536 }) }),
  'guest-run': strictObject({
    machine: machineIdField,
    command: Type.String({ minLength: 1, maxLength: 16_384 }),
    timeoutMs: integerField({ min: 1, max: 3_600_000 }),
  }),
  screendump: strictObject({ machine: machineIdField }),
  repository: CONTROL_METHODS.repository,
  events: strictObject({}),
  agent: strictObject({ stays: Type.Boolean() }),
  leave: strictObject({}),
  shutdown: strictObject({ stopMachines: Type.Optional(Type.Boolean()), deadlineMs: Type.Optional(deadlineField) }),
} as const satisfies Record<string, TSchema>;

export type SupervisorMethod = keyof typeof SUPERVISOR_METHODS;
export type SupervisorParams<M extends SupervisorMethod> = Static<(typeof SUPERVISOR_METHODS)[M]>;

export type SupervisorStatus = {
  readonly protocol: number;
  readonly software?: string;
  readonly pid: number;
  readonly startedAtMs: number;
  readonly blockd: {
    readonly pid: number | null;
    readonly software?: string | null;
    readonly restarts: number;
    readonly troubles?: readonly BlockdTrouble[];
  };
  /** Those that run, and those that are over until they are started again or the supervisor ends. */
  readonly machines: readonly MachineStatus[];
};

export type SupervisorResults = {
  readonly status: SupervisorStatus;
  readonly start: { readonly state: MachineState };
  readonly stop: { readonly state: MachineState };
  readonly suspend: { readonly state: MachineState };
  readonly resume: { readonly state: MachineState };
  readonly keys: Record<string, never>;
  readonly discard: { readonly state: MachineState };
  readonly sync: Record<string, never>;
  readonly 'show-disk': Record<string, never>;
  readonly 'hide-disk': Record<string, never>;
  readonly kill: { readonly state: MachineState };
  readonly console: Record<string, never>;
  readonly type: Record<string, never>;
  readonly 'guest-run': GuestCommandResult;
  readonly screendump: { readonly png: string };
  readonly repository: Record<string, never>;
  readonly events: Record<string, never>;
  readonly agent: Record<string, never>;
  readonly leave: Record<string, never>;
  readonly shutdown: Record<string, never>;
};

export type SupervisorEvent = { readonly event: 'machine'; readonly machine: string; readonly state: MachineState };
