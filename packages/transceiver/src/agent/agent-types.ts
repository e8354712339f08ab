/**
 * The agent's local API: what travels between the agent and its thin clients (command line, later the page) over
 * HOME/run/agent.sock. Data only; agent-schemas.ts checks the requests. Long work answers with one JSON event a line.
 */
import type { ErrorCode } from '@collective/shared/errors';
import type { DataStatus, DeletedRow, SubscriptionRow } from './data-types.js';
import type { ScrubStatus } from '../blockd/cache/scrubber.js';
import type { FaultCounts } from '../blockd/faults.js';

export const AGENT_PATHS = {
  status: '/v1/status',
  shutdown: '/v1/shutdown',
  leave: '/v1/leave',
  loginPrepare: '/v1/login/prepare',
  login: '/v1/login',
  logout: '/v1/logout',
  appliances: '/v1/appliances',
  start: '/v1/machines/start',
  stop: '/v1/machines/stop',
  suspend: '/v1/machines/suspend',
  console: '/v1/machines/console',
  publish: '/v1/publish',
  maintain: '/v1/maintain',
  maintainDiscard: '/v1/maintain/discard',
  publishMaintained: '/v1/maintain/publish',
  candidates: '/v1/candidates',
  promote: '/v1/promote',
  withdraw: '/v1/withdraw',
  mandatory: '/v1/mandatory',
  updates: '/v1/updates',
  export: '/v1/exports',
  scrub: '/v1/scrub',
  settings: '/v1/settings',
  hoard: '/v1/hoard',
  password: '/v1/password',
  recoveryCode: '/v1/recovery-code',
  recoveryCodeConfirm: '/v1/recovery-code/confirm',
  devices: '/v1/devices',
  devicesRevoke: '/v1/devices/revoke',
  unlock: '/v1/unlock',
  snapshots: '/v1/snapshots',
  snapshotsTake: '/v1/snapshots/take',
  snapshotsOpen: '/v1/snapshots/open',
  snapshotsShow: '/v1/snapshots/show',
  snapshotsRestore: '/v1/snapshots/restore',
  snapshotsEvery: '/v1/snapshots/every',
  undo: '/v1/undo',
  reset: '/v1/reset',
  delete: '/v1/delete',
  restore: '/v1/restore',
  continue: '/v1/continue',
} as const;

/** A command line and an agent of different numbers do not understand each other; each answer of the agent carries it. */
export const AGENT_API = 4;
export const AGENT_API_HEADER = 'collective-api';

export type ErrorReply = {
  readonly code: ErrorCode;
  readonly message: string;
  readonly hint?: string;
  readonly data?: Readonly<Record<string, string | number | boolean>>;
};

/** A line of a long answer. The last one is `result` or `error`; none of them means that the agent died. */
export type JobEvent =
  | {
      readonly event: 'progress';
      readonly step: string;
      readonly text: string;
      readonly done?: number;
      readonly total?: number;
    }
  | { readonly event: 'note'; readonly text: string }
  | { readonly event: 'result'; readonly value: unknown }
  | { readonly event: 'error'; readonly error: ErrorReply };

export type LoginPrepareRequest = { readonly target?: string };
/**
 * `invitation`: a new account is made, `recoveryCode` is to be shown and checked. `reset`: the account gets a new secret,
 * with `recoveryCode`; who has the old code recovers instead. `account`: an existing account on a new device. `device`:
 * this device is known, the password opens it (also without a network).
 */
export type LoginPrepareReply = {
  readonly kind: 'invitation' | 'reset' | 'account' | 'device';
  readonly origin: string;
  readonly account?: string;
  readonly recoveryCode?: string;
};

export type LoginRequest = {
  readonly target?: string;
  readonly account?: string;
  readonly password: string;
  /** Of a new account or secret: its code, confirmed. With `recover`: the code that opens the account. */
  readonly recoveryCode?: string;
  /** `password` is a new one, and the recovery code sets it. */
  readonly recover?: boolean;
  readonly deviceName?: string;
  /** Whose this machine is (agent/temporary-home.ts); absent: as it is already, else the person's. */
  readonly stay?: Stay;
};
/** `now`: no key of the person comes to lie on a disk, and their logout removes everything. */
export type Stay = 'mine' | 'now';
export type LoginReply = {
  readonly account: string;
  readonly origin: string;
  /** False when the repository could not be reached and the device's own file was opened. */
  readonly connected: boolean;
  readonly stay: Stay;
  readonly role?: string;
  readonly note?: string;
};

/**
 * `stop`: machines that run are stopped first. `remove`: everything of the person goes, also where the machine is theirs; it always does
 * where they are only for now. `discard`: also what is saved nowhere else.
 */
export type LogoutRequest = { readonly stop?: boolean; readonly remove?: boolean; readonly discard?: boolean };
export type LogoutReply = { readonly removed: boolean; readonly notes: readonly string[] };

/** `compromised`: somebody may know the old one; a new key epoch begins. */
export type PasswordRequest = {
  readonly password: string;
  readonly newPassword: string;
  readonly compromised?: boolean;
};
export type PasswordReply = { readonly epoch: number };

/** Shown, and not good before its last group has been typed back. */
export type RecoveryCodeReply = { readonly recoveryCode: string };
export type RecoveryCodeConfirmRequest = { readonly lastGroup: string };

export type DeviceRow = {
  readonly device: string;
  readonly name: string;
  readonly createdAt: number;
  readonly lastSeenAt: number | null;
  readonly revoked: boolean;
  /** The one that answers. */
  readonly isThis: boolean;
};
export type DevicesReply = { readonly devices: readonly DeviceRow[]; readonly connected: boolean };
export type RevokeRequest = { readonly device: string };
/** `epoch`: what new blocks use from now on. */
export type RevokeReply = { readonly device: string; readonly name: string; readonly epoch: number };

/** One of the two. `oldPassword`: of before the reset, on a device that was logged in then. */
export type UnlockRequest = { readonly recoveryCode?: string; readonly oldPassword?: string };
export type UnlockReply = { readonly unlocked: number; readonly locked: number };

export type ApplianceRow = {
  readonly name: string;
  readonly title: string;
  /** Highest version for all; null when nothing is published yet. */
  readonly latest: number | null;
  readonly access: string;
  /** Highest version that this machine has seen and verified. */
  readonly seen?: number;
  /** Versions that could run without the repository, the newest first; absent: it is not known. */
  readonly atHand?: readonly VersionAtHand[];
};
/** Of all its disks: blocks that are not zero, and those of them that are not in the cache. */
export type VersionAtHand = {
  readonly version: number;
  readonly blocks: number;
  readonly bytes: number;
  readonly missingBlocks: number;
  readonly missingBytes: number;
};
export type AppliancesReply = {
  readonly appliances: readonly ApplianceRow[];
  /** Of the person, on whatever device, by the names that all of them use. */
  readonly subscriptions: readonly SubscriptionRow[];
  /** Those that were deleted and can be brought back, the newest first. */
  readonly deleted: readonly DeletedRow[];
  readonly connected: boolean;
  readonly note?: string;
};

export type StartRequest = {
  readonly names: readonly string[];
  readonly waitFor?: string;
  readonly waitMs?: number;
  readonly accel?: string;
  /** A suspended machine's memory image is thrown away, and the newest version starts. */
  readonly fresh?: boolean;
  /** It runs on another device, and goes on here. */
  readonly takeOver?: boolean;
};
export type StartedMachine = {
  readonly name: string;
  readonly version: number;
  readonly readyMs?: number;
  /** It was suspended and goes on where it stood. */
  readonly resumed?: boolean;
  readonly notes: readonly string[];
};
export type StopRequest = {
  readonly names: readonly string[];
  readonly all?: boolean;
  readonly force?: boolean;
  readonly wait?: boolean;
  /** A suspended machine is stopped by throwing its memory image away. */
  readonly discard?: boolean;
};
export type SuspendRequest = { readonly names: readonly string[] };

export type MachineStatus = {
  readonly name: string;
  readonly version: number;
  readonly state: string;
  /** Why it is paused, and since when (seconds since 1970). */
  readonly pausedWhy?: string;
  readonly pausedSince?: number;
  readonly since?: number;
  /** Where the person's data of it is; absent: nobody is logged in, or it has none. */
  readonly data?: DataStatus;
  readonly details: Readonly<Record<string, unknown>>;
};

export type AgentStatus = {
  readonly agent: { readonly pid: number; readonly since: number; readonly home: string; readonly software: string };
  readonly session: {
    readonly account: string;
    readonly since: number;
    readonly connected: boolean;
    readonly stay: Stay;
    /** What new private blocks use. */
    readonly keyEpoch: number;
    /** The repository said so when it was last asked. */
    readonly deviceRevoked?: true;
  } | null;
  readonly repository: {
    readonly origin: string;
    readonly identity: string;
    readonly reachable: boolean | null;
    readonly newsAt: number | null;
  } | null;
  readonly device: boolean;
  /** `software`: which is running; `blockdSoftware`: of the block daemon. */
  readonly supervisor: {
    readonly running: boolean;
    /** It does not run, but machines of it are there: it is being started. */
    readonly wanted?: boolean;
    readonly pid?: number;
    readonly software?: string;
    readonly blockdSoftware?: string;
  };
  readonly blockd: BlockPathStatus;
  /** Null: nobody is logged in. */
  readonly prefetch: PrefetchStatus | null;
  readonly machines: readonly MachineStatus[];
  readonly notes: readonly string[];
};

/** What is brought in before anybody asks for it (prefetcher.ts). */
export type PrefetchStatus = {
  /** `metered`: the link is; `away`: the repository is; `full`: the cache is; `failed`: the agent's log says why. */
  readonly state: 'idle' | 'working' | 'metered' | 'away' | 'full' | 'failed';
  /** While working: `appliance@version`, and how much of what it lacks is here; whole blocks. */
  readonly what?: string;
  readonly doneBytes?: number;
  readonly bytes?: number;
  /** Else: when it was looked last; absent: not yet. */
  readonly lookedAt?: number;
};

export type BlockPathStatus = {
  readonly running: boolean;
  readonly cacheHits?: number;
  readonly cacheMisses?: number;
  readonly fetchedBytes?: number;
  readonly linkBytesPerSecond?: number;
  readonly waitingFor?: string;
  /** What the block path met since its start and lived with, by name; absent: nothing. */
  readonly faults?: FaultCounts;
  /** The scrub of the cache: when it last ran and what it found; absent: a block daemon that has none. */
  readonly scrub?: ScrubStatus;
};

/** `start`: go over the cache now and say how it goes. `everyDays`: how often it is gone over by itself; 0: never. */
export type ScrubRequest = { readonly start: boolean; readonly everyDays?: number };

/** Keep a version whole on this machine (NAME or NAME@VERSION), or (`isOff`) no longer. */
export type HoardRequest = { readonly name: string; readonly isOff?: boolean };
/** `version`: null when it is not kept any more. `bytes`: uncompressed. */
export type HoardReply = {
  readonly name: string;
  readonly version: number | null;
  readonly blocks: number;
  readonly bytes: number;
};

export type PublishRequest = {
  readonly name: string;
  readonly disks: readonly { readonly name: string; readonly file: string; readonly format?: string }[];
  /** Machine description or a recipe's appliance.json, as text. */
  readonly machine?: string;
  readonly title?: string;
  readonly notes?: string;
  readonly bootTest: boolean;
  readonly bootText?: string;
  readonly bootTimeoutMs?: number;
  /** It becomes a candidate, for these accounts and the publisher's own. */
  readonly candidateFor?: readonly string[];
};
export type PublishReply = {
  readonly name: string;
  readonly version: number;
  readonly manifest: string;
  /** It is for named people until it is promoted. */
  readonly candidate?: boolean;
  readonly diskBytes: number;
  readonly usedBytes: number;
  readonly changedBlocks: number;
  readonly sentBytes: number;
  readonly receivedBytes: number;
  readonly seconds: number;
};

export type ExportRequest = {
  readonly name: string;
  readonly version?: number;
  readonly disk: string;
  readonly socket: string;
  readonly writable: boolean;
};

export type MaintainRequest = {
  /** NAME, or NAME@VERSION where a session is to begin as another version than the newest. */
  readonly name: string;
  readonly accel?: string;
  readonly waitFor?: string;
  readonly waitMs?: number;
};
export type MaintainReply = {
  /** The machine: its console, and what stops it. */
  readonly machine: string;
  readonly version: number;
  /** The session was there before. */
  readonly goesOn: boolean;
  readonly notes: readonly string[];
};
export type DiscardMaintenanceRequest = { readonly name: string };

export type PublishMaintainedRequest = {
  readonly name: string;
  readonly title?: string;
  readonly notes?: string;
  /** Shell commands in the guest; absent: the default list; empty: none. */
  readonly cleanUp?: readonly string[];
  readonly candidateFor?: readonly string[];
  readonly bootTest: boolean;
  readonly bootText?: string;
  readonly bootTimeoutMs?: number;
};

export type CandidatesRequest = {
  readonly name: string;
  /** Which; absent: all, or for a change the only one. */
  readonly version?: number;
  readonly add?: readonly string[];
  readonly remove?: readonly string[];
};
export type CandidateRow = { readonly name: string; readonly version: number; readonly accounts: readonly string[] };

export type PromoteRequest = { readonly name: string; readonly version?: number };
export type PromoteReply = { readonly name: string; readonly version: number };

/** `version` absent: the version for all. */
export type WithdrawRequest = { readonly name: string; readonly version?: number };
export type WithdrawReply = {
  readonly name: string;
  readonly withdrawn: number;
  /** The older state under its new number; null: the withdrawn one was not for all. */
  readonly republished: { readonly version: number; readonly from: number } | null;
};

/** `mark` null: nothing of the appliance is mandatory any more. */
export type MandatoryRequest = {
  readonly name: string;
  readonly mark: { readonly version: number; readonly from: number; readonly graceDays: number } | null;
};

export type UpdatesRequest = { readonly name?: string };
export type UpdateRow = {
  readonly name: string;
  /** What the next start uses. */
  readonly newest: number;
  /** It is a candidate that is for this account. */
  readonly isCandidate: boolean;
  /** What runs, or is suspended, now. */
  readonly running: number | null;
  /** No older version may be started from then on (seconds since 1970). */
  readonly mandatory: { readonly version: number; readonly from: number; readonly graceDays: number } | null;
};
export type UpdatesReply = {
  readonly updates: readonly UpdateRow[];
  readonly connected: boolean;
  readonly note?: string;
};
