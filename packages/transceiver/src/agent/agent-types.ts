/**
 * The agent's local API: what travels between the agent and its thin clients (command line, later the page) over
 * HOME/run/agent.sock. Data only; agent-schemas.ts checks the requests. Long work answers with one JSON event a line.
 */
import type { ErrorCode } from '@collective/shared/errors';

export const AGENT_PATHS = {
  status: '/v1/status',
  shutdown: '/v1/shutdown',
  loginPrepare: '/v1/login/prepare',
  login: '/v1/login',
  logout: '/v1/logout',
  appliances: '/v1/appliances',
  start: '/v1/machines/start',
  stop: '/v1/machines/stop',
  console: '/v1/machines/console',
  publish: '/v1/publish',
  export: '/v1/exports',
} as const;

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
 * `invitation`: a new account is made, `recoveryCode` is to be shown and checked. `account`: an existing account on a new
 * device. `device`: this device is known, the password opens it (also without a network).
 */
export type LoginPrepareReply = {
  readonly kind: 'invitation' | 'account' | 'device';
  readonly origin: string;
  readonly account?: string;
  readonly recoveryCode?: string;
};

export type LoginRequest = {
  readonly target?: string;
  readonly account?: string;
  readonly password: string;
  readonly recoveryCode?: string;
  readonly deviceName?: string;
};
export type LoginReply = {
  readonly account: string;
  readonly origin: string;
  /** False when the repository could not be reached and the device's own file was opened. */
  readonly connected: boolean;
  readonly role?: string;
  readonly note?: string;
};

export type ApplianceRow = {
  readonly name: string;
  readonly title: string;
  /** Highest version for all; null when nothing is published yet. */
  readonly latest: number | null;
  readonly access: string;
  /** Highest version that this machine has seen and verified. */
  readonly seen?: number;
};
export type AppliancesReply = {
  readonly appliances: readonly ApplianceRow[];
  readonly connected: boolean;
  readonly note?: string;
};

export type StartRequest = {
  readonly names: readonly string[];
  readonly waitFor?: string;
  readonly waitMs?: number;
  readonly accel?: string;
};
export type StartedMachine = {
  readonly name: string;
  readonly version: number;
  readonly readyMs?: number;
  readonly notes: readonly string[];
};
export type StopRequest = {
  readonly names: readonly string[];
  readonly all?: boolean;
  readonly force?: boolean;
  readonly wait?: boolean;
};

export type MachineStatus = {
  readonly name: string;
  readonly version: number;
  readonly state: string;
  /** Why it is paused, and since when (seconds since 1970). */
  readonly pausedWhy?: string;
  readonly pausedSince?: number;
  readonly since?: number;
  readonly details: Readonly<Record<string, unknown>>;
};

export type AgentStatus = {
  readonly agent: { readonly pid: number; readonly since: number; readonly home: string; readonly software: string };
  readonly session: { readonly account: string; readonly since: number; readonly connected: boolean } | null;
  readonly repository: {
    readonly origin: string;
    readonly identity: string;
    readonly reachable: boolean | null;
    readonly newsAt: number | null;
  } | null;
  readonly device: boolean;
  readonly supervisor: { readonly running: boolean; readonly pid?: number };
  readonly blockd: BlockPathStatus;
  readonly machines: readonly MachineStatus[];
  readonly notes: readonly string[];
};

export type BlockPathStatus = {
  readonly running: boolean;
  readonly cacheHits?: number;
  readonly cacheMisses?: number;
  readonly fetchedBytes?: number;
  readonly linkBytesPerSecond?: number;
  readonly waitingFor?: string;
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
};
export type PublishReply = {
  readonly name: string;
  readonly version: number;
  readonly manifest: string;
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
