/**
 * What the agent asks of the processes that outlive it: the supervisor, which runs the machines, and blockd, which serves
 * their disks. The agent verifies and decides; they do. One implementation talks to the real ones
 * (supervised-machines.ts), tests have doubles.
 */
import type { Digest, DiskDescription, DiskMap, MachineDescription } from '@collective/shared';
import type { ScrubStatus } from '../blockd/cache/scrubber.js';
import type { ControlClient } from '../blockd/control/control-client.js';
import type { BlockKeys } from '../blockd/private/block-key-ring.js';
import type { DiskSource } from '../supervisor/disk-service.js';
import type { DiskKeyRing } from './disk-key-ring.js';
import type { GuestCommandResult } from '../machine/guest-exec.js';
import type { MaintainedDisk, MaintainedDiskPlan } from './maintained-disk.js';
import type { SuspendedMachine } from './suspended-machines.js';
import type { AgentStatus, BlockPathStatus, MachineStatus, ScrubRequest } from './agent-types.js';

/** Where missing blocks come from. Public ones need no token (whoever knows a digest may read that chunk), private ones do. */
export type BlockOrigin = { readonly origin: string; readonly pin?: string; readonly token?: string };

export type PlannedDisk = { readonly description: DiskDescription; readonly map: DiskMap };

export type MachinePlan = {
  readonly name: string;
  /** Of an additional subscription; absent: it is called as the machine. */
  readonly appliance?: string;
  readonly version: number;
  readonly manifest: Digest;
  readonly machine: MachineDescription;
  readonly disks: readonly PlannedDisk[];
  readonly blocks: BlockOrigin;
  /** What the machine leaves on the local disk is encrypted with one of them. */
  readonly diskKeys: DiskKeyRing;
  /** Of the person's private blocks; absent: it has none. */
  readonly blockKeys?: BlockKeys;
  /** Of user disks of which something was saved: the base file that they lie over. */
  readonly bases?: ReadonlyMap<string, Digest>;
  readonly accel?: string;
  /** Of system disks: what is to be fetched ahead of the guest. */
  readonly traces?: ReadonlyMap<string, Buffer>;
  /** What sessions touch of each system disk (docs/formats/use.md). */
  readonly uses?: ReadonlyMap<string, Buffer>;
  /** What earlier boots touched of the person's own disks is fetched ahead, too; default: not. */
  readonly replaysPrivateTraces?: boolean;
  /** Of a maintain session, `name` being its machine's: the appliance. What is written to its system disk is kept. */
  readonly maintains?: string;
};

/** A disk that is served as it is, read-only. */
export type SourcePlan = {
  readonly source: DiskSource;
  readonly disk: string;
  readonly diskKeys: DiskKeyRing;
  readonly blockKeys: BlockKeys;
  readonly blocks: BlockOrigin;
  readonly socketPath: string;
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

/** Digests of 32 bytes, one after the other. */
export type BlockList = { readonly blockBytes: number; readonly digests: Buffer };
/** How many blocks a list has, and how many of them are not in the cache. */
export type BlockCount = { readonly blocks: number; readonly missing: number };

export type PathStatus = {
  readonly supervisor: AgentStatus['supervisor'];
  readonly blockd: BlockPathStatus;
  readonly machines: readonly MachineStatus[];
  /** What the block daemon has said lately, for people. */
  readonly troubles: readonly { readonly message: string }[];
};

export interface MachinePort {
  status(): Promise<PathStatus>;
  /** Begins to start what the first machine will need (0.8 s of processes); nobody waits, and it never fails. */
  prepare(blocks: BlockOrigin): void;
  /** Resolves when QEMU runs. Errors: `in-use` when the appliance runs already, `missing-program`, `local-io`. */
  start(plan: MachinePlan, signal: AbortSignal): Promise<{ readonly notes: readonly string[] }>;
  /** Those of which only a memory image is there. */
  suspended(): Promise<readonly SuspendedMachine[]>;
  /** Resolves when it is suspended. Errors: `not-found`, `in-use`, `disk-full`, `local-io`: it goes on then. */
  suspend(name: string): Promise<void>;
  /** Resolves when it runs where it stood. Errors: `cannot-resume`, `wrong-key`: it is still suspended then. */
  resume(
    name: string,
    from: { readonly blocks: BlockOrigin; readonly diskKeys: DiskKeyRing; readonly blockKeys?: BlockKeys },
    signal: AbortSignal,
  ): Promise<void>;
  /** Throws the memory image of a suspended machine away. */
  discard(name: string): Promise<void>;
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
  /** One count a list; undefined when no block daemon runs and none may be started. */
  missing(
    lists: readonly BlockList[],
    options: { readonly mayStart: boolean },
  ): Promise<readonly BlockCount[] | undefined>;
  /** As `export`, of a source. */
  exportSource(
    plan: SourcePlan,
    options: { readonly signal: AbortSignal; readonly onServing: () => void },
  ): Promise<void>;
  /** Where blocks come from now: told to the processes that fetch them, if they are there. Never fails. */
  authorize(blocks: BlockOrigin): Promise<void>;
  /** Keys of blocks of new epochs, to a machine that runs. Errors: `not-found`, `conflict`, `local-io`. */
  addKeys(name: string, blockKeys: BlockKeys): Promise<void>;
  /** The block daemon's control connection, shared by all who ask; it is started when it is not there, and told where `blocks` come from. Errors: `local-io`. */
  blockd(blocks: () => Promise<BlockOrigin>): Promise<Pick<ControlClient, 'request'>>;
  /** Brings what the guest has in memory of its file systems onto its disks, if its agent answers. Errors: `not-found`. */
  sync(name: string): Promise<void>;
  /** Shows the running guest one more disk, read-only. Errors: `not-found`, `exists`, `local-io`. */
  show(name: string, disk: { readonly disk: string; readonly source: DiskSource }): Promise<void>;
  /** Takes it away. Errors: `not-found`, `in-use` when the guest does not let go of it. */
  hide(name: string, disk: string): Promise<void>;
  /** Of a stopped or suspended machine: memory image, ephemeral disks and system overlay go, user disks stay. Errors: `in-use`. */
  reset(name: string): Promise<void>;
  /** A pass over the cache, followed to its end when one is to start. Errors: `local-io`. */
  scrub(
    request: ScrubRequest,
    options: { readonly signal: AbortSignal; readonly onProgress: (status: ScrubStatus) => void },
  ): Promise<ScrubStatus>;
  /** A shell command in the guest of a maintain session. Errors: `not-found` without a guest agent, `local-io`. */
  runInMaintained(
    machine: string,
    run: { readonly command: string; readonly timeoutMs: number },
  ): Promise<GuestCommandResult>;
  /** Resolves when the guest has shut down by itself. Errors: `not-found`, `conflict` when it had to be ended. */
  shutDownCleanly(machine: string): Promise<void>;
  /** The system disk of a maintain session at rest; whoever opens it closes it. Errors: `in-use`, `wrong-key`, `local-io`. */
  openMaintainedDisk(plan: MaintainedDiskPlan, blocks: BlockOrigin): Promise<MaintainedDisk>;
  /** What the boot touched of each system disk (docs/formats/trace.md), as far as that is known. Errors: `no-boot` with the end of the console. */
  bootTest(plan: BootTestPlan): Promise<ReadonlyMap<string, Buffer>>;
  /** Ends supervisor and blockd. Errors: `in-use` while a machine runs. */
  shutdown(): Promise<void>;
  /** Ends the supervisor alone: machines and blockd go on until the next one adopts them. */
  leave(): Promise<void>;
  close(): Promise<void>;
}
