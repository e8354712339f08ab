/**
 * What the agent asks of the processes that outlive it: the supervisor, which runs the machines, and blockd, which serves
 * their disks. The agent verifies and decides; they do. One implementation talks to the real ones
 * (supervised-machines.ts), tests have doubles.
 */
import type { Digest, DiskDescription, DiskMap, MachineDescription } from '@collective/shared';
import type { BlockPathStatus, MachineStatus } from './agent-types.js';

/** Where missing blocks come from; blocks need no token (whoever knows a digest may read that chunk). */
export type BlockOrigin = { readonly origin: string; readonly pin?: string };

export type PlannedDisk = { readonly description: DiskDescription; readonly map: DiskMap };

export type MachinePlan = {
  readonly name: string;
  readonly version: number;
  readonly manifest: Digest;
  readonly machine: MachineDescription;
  readonly disks: readonly PlannedDisk[];
  readonly blocks: BlockOrigin;
  readonly accel?: string;
};

export type ExportPlan = {
  readonly name: string;
  readonly version: number;
  readonly disk: PlannedDisk;
  readonly blocks: BlockOrigin;
  readonly socketPath: string;
  readonly writable: boolean;
};

/**
 * A version that is booted once before it is committed. Its blocks are in the repository already, so the test takes the
 * way that every later start takes; all writes go to overlays that are thrown away.
 */
export type BootTestPlan = {
  readonly name: string;
  readonly version: number;
  readonly machine: MachineDescription;
  readonly disks: readonly PlannedDisk[];
  readonly blocks: BlockOrigin;
  /** Passed when the serial console shows this; undefined: a login prompt. */
  readonly text?: string;
  readonly timeoutMs: number;
  readonly signal: AbortSignal;
};

export type PathStatus = {
  readonly supervisor: { readonly running: boolean; readonly pid?: number };
  readonly blockd: BlockPathStatus;
  readonly machines: readonly MachineStatus[];
};

export interface MachinePort {
  status(): Promise<PathStatus>;
  /** Begins to start what the first machine will need (0.8 s of processes); nobody waits, and it never fails. */
  prepare(blocks: BlockOrigin): void;
  /** Resolves when QEMU runs. Errors: `in-use` when the appliance runs already, `missing-program`, `local-io`. */
  start(plan: MachinePlan, signal: AbortSignal): Promise<{ readonly notes: readonly string[] }>;
  /** Resolves when it is down, or has been told to go down. Errors: `not-found`. */
  stop(name: string, options: { readonly force: boolean; readonly wait: boolean }): Promise<void>;
  /** The supervisor's socket, where a client asks for the serial console itself. Errors: `not-found`. */
  consoleSocket(name: string): Promise<string>;
  /** Resolves when the serial console has shown `text` (or `login:`-like for "login"). Errors: `no-boot`. */
  waitForConsole(
    name: string,
    options: { readonly text: string; readonly timeoutMs: number; readonly signal: AbortSignal },
  ): Promise<void>;
  /** Serves until the signal aborts. */
  export(plan: ExportPlan, options: { readonly signal: AbortSignal; readonly onServing: () => void }): Promise<void>;
  /** Errors: `no-boot` with the end of the console. */
  bootTest(plan: BootTestPlan): Promise<void>;
  /** Ends supervisor and blockd. Errors: `in-use` while a machine runs. */
  shutdown(): Promise<void>;
  close(): Promise<void>;
}
