/** What tests and benchmarks use of the transceiver in their own process; people use the command line. */
export { GuestAgent } from './machine/guest-agent.js';
export { DemandLook } from './agent/demand-look.js';
export { QmpClient } from './machine/qmp-client.js';
export { qemuArguments } from './machine/qemu-arguments.js';
export { sessionPaths, type MachineSession, type SessionPaths } from './machine/machine-session.js';
export * from './blockd/index.js';
export type { FileLock, FileSystem, RandomFile } from './storage/file-system.js';
export { localError } from './storage/local-file.js';
export { LocalFileSystem } from './storage/local-file-system.js';
export { NbdReader } from './publish/nbd-reader.js';
export { RepositoryClient } from './repository/repository-client.js';
export { openHome, type Home } from './home.js';
export { identifyProcess, isAlive } from './machine/process-identity.js';
export * from './supervisor/index.js';
export * from './backup/index.js';
