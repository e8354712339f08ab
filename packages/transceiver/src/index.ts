/** What tests and benchmarks use of the transceiver in their own process; people use the command line. */
export { qemuArguments } from './machine/qemu-arguments.js';
export { sessionPaths, type MachineSession } from './machine/machine-session.js';
