/** What the agent and tests use of the supervisor: its client and the data that travels. The rest runs in its own process. */
export { HeldSocket } from './held-socket.js';
export type { MachineDisk, MachineSpec } from './machine-spec.js';
export { isOver, type MachineState, type MachineStatus } from './machine-state.js';
export { SupervisorClient, type SupervisorHome } from './supervisor-client.js';
export type {
  SupervisorEvent,
  SupervisorMethod,
  SupervisorParams,
  SupervisorResults,
  SupervisorStatus,
} from './supervisor-protocol.js';
export { BLOCKD_V8_OPTIONS } from './blockd-process.js';
