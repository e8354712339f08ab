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
 * | start | a MachineSpec | at once; `exists` when that machine is not over. The rest comes as events |
 * | stop | machine, deadlineMs (default 60,000; 0: at once) | at once: state. `not-found` |
 * | kill | machine | at once: state |
 * | console | machine, tailBytes (default: all that is kept) | then the connection is the serial port, raw, both ways |
 * | type | machine, text | typed on the serial port |
 * | screendump | machine | png (base64) |
 * | repository | as in blockd's protocol | told to blockd, now and after each restart of it |
 * | events | | |
 * | shutdown | stopMachines (default false), deadlineMs | ends the supervisor and blockd; `in-use` while machines run |
 */
import { integerField, strictObject } from '@collective/shared';
import { type Static, type TSchema, Type } from 'typebox';
import { CONTROL_METHODS } from '../blockd/control/control-protocol.js';
import { machineIdField, machineSpecSchema } from './machine-spec.js';
import type { MachineState } from './machine-state.js';
import type { MachineStatus } from './machine-unit.js';

export const SUPERVISOR_PROTOCOL = 1;
/** The longest request: a `start`. */
export const REQUEST_BYTES_MAX = 256 << 10;
/** The longest reply: a screendump. */
export const REPLY_BYTES_MAX = 64 << 20;
export const STOP_DEADLINE_MS = 60_000;

const deadlineField = integerField({ min: 0, max: 3_600_000 });

export const SUPERVISOR_METHODS = {
  status: strictObject({}),
  start: machineSpecSchema,
  stop: strictObject({ machine: machineIdField, deadlineMs: Type.Optional(deadlineField) }),
  kill: strictObject({ machine: machineIdField }),
  console: strictObject({ machine: machineIdField, tailBytes: Type.Optional(integerField({ min: 0, max: 1 << 20 })) }),
  type: strictObject({ machine: machineIdField, text: Type.String({ maxLength: 65_536 }) }),
  screendump: strictObject({ machine: machineIdField }),
  repository: CONTROL_METHODS.repository,
  events: strictObject({}),
  shutdown: strictObject({ stopMachines: Type.Optional(Type.Boolean()), deadlineMs: Type.Optional(deadlineField) }),
} as const satisfies Record<string, TSchema>;

export type SupervisorMethod = keyof typeof SUPERVISOR_METHODS;
export type SupervisorParams<M extends SupervisorMethod> = Static<(typeof SUPERVISOR_METHODS)[M]>;

export type SupervisorStatus = {
  readonly protocol: number;
  readonly pid: number;
  readonly startedAtMs: number;
  readonly blockd: { readonly pid: number | null; readonly restarts: number };
  /** Those that run, and those that are over until they are started again or the supervisor ends. */
  readonly machines: readonly MachineStatus[];
};

export type SupervisorResults = {
  readonly status: SupervisorStatus;
  readonly start: { readonly state: MachineState };
  readonly stop: { readonly state: MachineState };
  readonly kill: { readonly state: MachineState };
  readonly console: Record<string, never>;
  readonly type: Record<string, never>;
  readonly screendump: { readonly png: string };
  readonly repository: Record<string, never>;
  readonly events: Record<string, never>;
  readonly shutdown: Record<string, never>;
};

export type SupervisorEvent = { readonly event: 'machine'; readonly machine: string; readonly state: MachineState };
