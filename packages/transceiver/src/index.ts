/** What tests and benchmarks use of the transceiver in their own process; people use the command line. */
export { qemuArguments } from './machine/qemu-arguments.js';
export { sessionPaths, type MachineSession } from './machine/machine-session.js';
export * from './blockd/index.js';
export { LocalFileSystem } from './storage/local-file-system.js';
export { openHome, type Home } from './home.js';
export { identifyProcess, isAlive } from './machine/process-identity.js';
export * from './supervisor/index.js';
