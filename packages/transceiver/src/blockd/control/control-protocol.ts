/**
 * The control protocol of blockd, on the unix socket `HOME/run/blockd.sock` (mode 0600): one JSON value a line, at most 64 KiB,
 * UTF-8. Whoever may open the socket may do everything.
 *
 *   request  {"id": N, "method": M, "params": {…}}          N any number; replies come in any order
 *   reply    {"id": N, "result": {…}}  or  {"id": N, "error": {"code", "message", "data"}}    codes of the error table
 *   event    {"event": E, …}                                 on connections that asked for `events`
 *
 * | method | params | result |
 * |---|---|---|
 * | hello | | protocol, pid, startedAt (seconds) |
 * | attach | session, disk, source, overlay, trace, diskKey, blockKeys, waitMs, graceMs, listen | byteLength; `exists` when it is attached already |
 * | detach | session, disk (absent: all of the session), keep (default false) | detached (count); deletes temporary overlays, or with `keep` makes them durable |
 * | keys | blockKeys | these keys of epochs count beside those that are known; what waited for them is tried again |
 * | seal | session, disk | layer: the top layer is frozen, and durable now. `not-found` without an overlay, `too-large` |
 * | view-open | session, disk, layer, listen | byteLength: a read-only export (named as the disk) of the disk up to and with that sealed layer; `exists`, `not-found` |
 * | view-close | session, disk, layer | closed (whether it was open) |
 * | changed-blocks | session, disk, layer, blockBytes, path | writes the numbers of the blocks that the layers up to and with that one touch: u32 LE, ascending; blocks (how many) |
 * | rebase | session, disk, layer, base, blockKeys | the base takes the place of the layers up to and with that one; views of them end. `digest-mismatch` when it is not what they hold, `block-unavailable` when that cannot be told just now, `not-found`: nothing was changed |
 * | wait | session, waitMs | how long reads wait from now on, those that wait already included |
 * | warm | session, disk, blocks, timeoutMs | when those blocks (default: the first) are in the cache |
 * | status | | BlockdStatus |
 * | repository | origin, pin, token | from now on fetches go there; also wakes what backs off |
 * | metered | metered (default at the start: false) | on such a link nothing is brought in because of what other sessions touch together |
 * | network-back | | connections are renewed, what backs off tries now |
 * | trace-start | session | the machine starts now: first touches count from here |
 * | phase | session, phase | 0 firmware, 1 kernel, 2 login, 3 idle |
 * | trace | session, disk, path | writes the boot trace so far (docs/formats/trace.md) to the file; touches; `not-found` for a disk that has none |
 * | recording-start | session | from now on what is asked of the session's disks is recorded, of those too that are attached later; `exists` |
 * | recording-stop | session, path | writes the recording (docs/formats/request-recording.md) to the file; requests, truncated; `not-found` |
 * | missing | blockBytes, path, answer | of the blocks that the file names (32-byte digests, one after the other): blocks, and how many are not in the cache; these are written to the file `answer` if there is one, in the same form and order |
 * | prefetch | blockBytes, path | when the blocks that the file names (as above) are in the cache: in the background, as fast as others leave the line idle; `disk-full` when the cache is full, nothing is evicted for them |
 * | hoard | blockBytes, path | when the blocks that the file names (as above) are in the cache, where they stay until `release`; `disk-full` when there is no room |
 * | release | blockBytes, path | those blocks are evicted as others again |
 * | touched-blocks | session, disk, blockBytes, path | writes the numbers of the blocks that the disk's overlay touches, while nobody writes to it: u32 LE, ascending; blocks (count); `not-found` without an overlay |
 * | scrub | start, stop, everyDays | begins a pass over the cache now; stops it (it goes on slowly later); sets how often one begins by itself (0: never); ScrubStatus |
 * | events | | from now on this connection gets events |
 * | shutdown | | ends the process; `in-use` while disks are attached |
 *
 * source: {"kind": "published", appliance, version, diskBytes, blockBytes, root, map, trace}, `map` the path of a file that holds the
 * disk map as a list of changed pairs relative to nothing; rebuilt and checked against `root`. `root` null
 * (and no map): all zero. trace: {replay, record, use, session}, paths: the blocks of the boot trace in `replay` are asked for ahead of the guest, and that of this boot
 * is written to `record` when the boot is over; the groups of the disk use in `use` are asked for when the guest touches one, and the use record of this session is written to
 * `session`, at its end and every half hour (docs/formats/use.md). Or {"kind": "zero", diskBytes}. Or {"kind": "snapshot", folder, base}: the state that the base file `base` (its SHA-256) in
 * `folder` says (docs/formats/base-file.md). Where the overlay's own `overlay.json` names a base, that one counts, and the source only
 * when there is none. A new overlay whose folder is that of a snapshot source names its base from the start.
 *
 * overlay: {path, mode: "temporary" | "persistent", fresh, key}: a folder; `fresh` removes what is there (a reboot), `temporary` deletes it
 * at detach. `key`: 64 bytes as base64url, its layers are encrypted with it; `wrong-key` when they are not. It survives blockd: attach the same path again without `fresh`. No overlay: the disk is read-only.
 *
 * trace: {path, blockBytes, replay}, of a user disk, whose overlay is persistent and has a key: what the boot touches of the disk, layers included, is left
 * in the file at `path`, sealed with a key that the overlay's gives, when the boot is over; `replay`: what the file names is asked for ahead of the guest.
 *
 * diskKey: 64 bytes as base64url, with which the cache of private blocks is encrypted; the overlay's key when absent and the overlay is persistent. blockKeys:
 * [{epoch, blockNameKey, chunkKey}], 32 bytes each as base64url, of the epochs of the person's ring. `wrong-key` when private blocks are there and one of the two is not.
 *
 * listen: {"path"} a unix socket that blockd makes (at `attach` in the place of one that is there, whose owner is gone), {"fd"} one that it inherited, or {"handle": NAME}: a net.Server that the parent process
 * sends over the IPC channel as `process.send({listener: NAME}, server)`.
 *
 * events: block-unavailable {session, disk, blockIndex, reason}: a read was answered EIO, the machine is paused. block-arrived
 * {session, disk, blockIndex, waitedMs, stillUnavailable}: it may go on. disk-full {session, disk, message}: a write was refused. token-refused {}.
 */
import { CollectiveError, type CollectiveError as ControlError, type ErrorCode } from '@collective/shared';
import { Type, type Static, type TProperties, type TSchema, Compile } from '@collective/schema';
import type { ScrubStatus } from '../cache/scrubber.js';
import type { WaitingBlock } from '../block-waits.js';
import type { ImageCounters } from '../image-device.js';
import type { FaultCounts } from '../faults.js';
import type { FetchStatus } from '../fetch/thread-messages.js';
import type { SealStatus } from '../overlay/seal-times.js';
import { blockKeysField } from '../private/block-key-ring.js';

export const CONTROL_PROTOCOL = 1;
export const CONTROL_LINE_BYTES_MAX = 64 << 10;

/** 64 bytes as base64url. It is never in a reply, an event or a log. */
export const diskKeyField = Type.String({ pattern: '^[A-Za-z0-9_-]{85}[AQgw]$' });

const strict = <P extends TProperties>(properties: P) => Type.Object(properties, { additionalProperties: false });
const name = Type.String({ pattern: '^[A-Za-z0-9][A-Za-z0-9@._-]{0,127}$' });
const path = Type.String({ minLength: 1, maxLength: 4096, pattern: '^/' });
const digest = Type.String({ pattern: '^[0-9a-f]{64}$' });
const diskBytes = Type.Integer({ minimum: 512, maximum: 2 ** 44, multipleOf: 512 });

const publishedSource = strict({
  kind: Type.Literal('published'),
  appliance: name,
  version: Type.Integer({ minimum: 1, maximum: 2 ** 31 - 1 }),
  diskBytes,
  blockBytes: Type.Integer({ minimum: 4096, maximum: 1_048_576 }),
  root: Type.Union([digest, Type.Null()]),
  map: Type.Optional(path),
  trace: Type.Optional(
    strict({
      replay: Type.Optional(path),
      record: Type.Optional(path),
      use: Type.Optional(path),
      session: Type.Optional(path),
    }),
  ),
});
const zeroSource = strict({ kind: Type.Literal('zero'), diskBytes });
const snapshotSource = strict({ kind: Type.Literal('snapshot'), folder: path, base: digest });
const layer = Type.String({ pattern: '^[0-9a-f]{32}$' });
const listen = Type.Union([
  strict({ path }),
  strict({ fd: Type.Integer({ minimum: 3, maximum: 1 << 20 }) }),
  strict({ handle: name }),
]);

export const CONTROL_METHODS = {
  hello: strict({}),
  attach: strict({
    session: name,
    disk: name,
    source: Type.Union([publishedSource, zeroSource, snapshotSource]),
    overlay: Type.Optional(
      strict({
        path,
        mode: Type.Union([Type.Literal('temporary'), Type.Literal('persistent')]),
        fresh: Type.Optional(Type.Boolean()),
        key: Type.Optional(diskKeyField),
      }),
    ),
    trace: Type.Optional(
      strict({ path, blockBytes: Type.Integer({ minimum: 4096, maximum: 1_048_576 }), replay: Type.Boolean() }),
    ),
    diskKey: Type.Optional(diskKeyField),
    blockKeys: Type.Optional(blockKeysField),
    waitMs: Type.Integer({ minimum: 100, maximum: 600_000 }),
    /** Between the event `block-unavailable` and the error; default 0. */
    graceMs: Type.Optional(Type.Integer({ minimum: 0, maximum: 10_000 })),
    listen,
  }),
  detach: strict({ session: name, disk: Type.Optional(name), keep: Type.Optional(Type.Boolean()) }),
  keys: strict({ blockKeys: blockKeysField }),
  seal: strict({ session: name, disk: name }),
  'view-open': strict({ session: name, disk: name, layer, listen }),
  'view-close': strict({ session: name, disk: name, layer }),
  'changed-blocks': strict({
    session: name,
    disk: name,
    layer,
    blockBytes: Type.Integer({ minimum: 4096, maximum: 1_048_576 }),
    path,
  }),
  rebase: strict({ session: name, disk: name, layer, base: digest, blockKeys: Type.Optional(blockKeysField) }),
  wait: strict({ session: name, waitMs: Type.Integer({ minimum: 1, maximum: 600_000 }) }),
  warm: strict({
    session: name,
    disk: name,
    blocks: Type.Optional(Type.Array(Type.Integer({ minimum: 0, maximum: 2 ** 32 }), { maxItems: 1024 })),
    timeoutMs: Type.Optional(Type.Integer({ minimum: 1, maximum: 600_000 })),
  }),
  status: strict({}),
  repository: strict({
    origin: Type.String({ maxLength: 2000, pattern: '^https?://' }),
    pin: Type.Optional(Type.String({ pattern: '^[A-Za-z0-9_-]{43}$' })),
    token: Type.Optional(Type.String({ maxLength: 1000 })),
  }),
  metered: strict({ metered: Type.Boolean() }),
  'network-back': strict({}),
  'trace-start': strict({ session: name }),
  phase: strict({
    session: name,
    phase: Type.Union([Type.Literal(0), Type.Literal(1), Type.Literal(2), Type.Literal(3)]),
  }),
  trace: strict({ session: name, disk: name, path }),
  'recording-start': strict({ session: name }),
  'recording-stop': strict({ session: name, path }),
  missing: strict({
    blockBytes: Type.Integer({ minimum: 4096, maximum: 1_048_576 }),
    path,
    answer: Type.Optional(path),
  }),
  prefetch: strict({ blockBytes: Type.Integer({ minimum: 4096, maximum: 1_048_576 }), path }),
  hoard: strict({ blockBytes: Type.Integer({ minimum: 4096, maximum: 1_048_576 }), path }),
  release: strict({ blockBytes: Type.Integer({ minimum: 4096, maximum: 1_048_576 }), path }),
  'touched-blocks': strict({
    session: name,
    disk: name,
    blockBytes: Type.Integer({ minimum: 4096, maximum: 1_048_576, multipleOf: 4096 }),
    path,
  }),
  scrub: strict({
    start: Type.Optional(Type.Boolean()),
    stop: Type.Optional(Type.Boolean()),
    everyDays: Type.Optional(Type.Integer({ minimum: 0, maximum: 3650 })),
  }),
  events: strict({}),
  shutdown: strict({}),
} as const satisfies Record<string, TSchema>;

export type ControlMethod = keyof typeof CONTROL_METHODS;
export type ControlParams<M extends ControlMethod> = Static<(typeof CONTROL_METHODS)[M]>;

export type DiskStatus = {
  readonly session: string;
  readonly disk: string;
  readonly byteLength: number;
  readonly clients: number;
  /** Time with a request of the guest unanswered, overlapping ones counted once. */
  readonly busyMs: number;
  /** Of all its images together. */
  readonly counters?: ImageCounters;
  /** The base that its overlay names; absent without an overlay. */
  readonly base?: string | null;
  /** Its sealed layers, from the bottom; absent without an overlay. */
  readonly sealedLayers?: readonly string[];
  /** Since it was attached: how long its seals took, and what writes waited meanwhile; absent without an overlay. */
  readonly seals?: SealStatus;
  /** Blocks that reads wait for, and why the last attempt failed. */
  readonly waiting: readonly (WaitingBlock & { readonly reason?: string })[];
};

export type BlockdStatus = {
  readonly pid: number;
  readonly startedAt: number;
  readonly repository: string | null;
  readonly disks: readonly DiskStatus[];
  readonly cache: FetchStatus['cache'] & {
    readonly hits: number;
    readonly misses: number;
    readonly verified: number;
    readonly damaged: number;
  };
  readonly fetch: Omit<FetchStatus, 'cache' | 'faults' | 'scrub'>;
  readonly scrub: ScrubStatus | null;
  /** Of private blocks; null until a disk has some. */
  readonly private: {
    readonly cache: BlockdStatus['cache'];
    readonly fetch: BlockdStatus['fetch'];
    readonly scrub: ScrubStatus | null;
  } | null;
  /** What was met since the start, and lived with (faults.ts). */
  readonly faults: FaultCounts;
  /** The last failed attempt to fetch anything. */
  readonly lastError: { readonly at: number; readonly code: ErrorCode; readonly message: string } | null;
};

export type ControlResults = {
  readonly hello: {
    readonly protocol: number;
    readonly pid: number;
    readonly startedAt: number;
    /** Missing: before there was this field. */
    readonly software?: string;
  };
  readonly attach: { readonly byteLength: number };
  readonly detach: { readonly detached: number };
  readonly keys: Record<string, never>;
  readonly seal: { readonly layer: string };
  readonly 'view-open': { readonly byteLength: number };
  readonly 'view-close': { readonly closed: boolean };
  readonly 'changed-blocks': { readonly blocks: number };
  readonly rebase: Record<string, never>;
  readonly wait: Record<string, never>;
  readonly warm: Record<string, never>;
  readonly status: BlockdStatus;
  readonly repository: Record<string, never>;
  readonly metered: Record<string, never>;
  readonly 'network-back': Record<string, never>;
  readonly 'trace-start': Record<string, never>;
  readonly phase: Record<string, never>;
  readonly trace: { readonly touches: number };
  readonly 'recording-start': Record<string, never>;
  readonly 'recording-stop': { readonly requests: number; readonly truncated: boolean };
  readonly missing: { readonly blocks: number; readonly missing: number };
  readonly prefetch: Record<string, never>;
  readonly hoard: Record<string, never>;
  readonly release: Record<string, never>;
  readonly 'touched-blocks': { readonly blocks: number };
  readonly scrub: ScrubStatus;
  readonly events: Record<string, never>;
  readonly shutdown: Record<string, never>;
};

export type ControlEvent =
  | {
      readonly event: 'block-unavailable';
      readonly session: string;
      readonly disk: string;
      readonly blockIndex: number;
      readonly reason: string;
    }
  | {
      readonly event: 'block-arrived';
      readonly session: string;
      readonly disk: string;
      readonly blockIndex: number;
      readonly waitedMs: number;
      /** Blocks of this disk that are still missing after a read was given up. */
      readonly stillUnavailable: number;
    }
  | { readonly event: 'disk-full'; readonly session: string; readonly disk: string; readonly message: string }
  | { readonly event: 'token-refused' };

export type ControlRequest = {
  [M in ControlMethod]: { readonly id: number; readonly method: M; readonly params: ControlParams<M> };
}[ControlMethod];
export type ControlReply =
  | { readonly id: number; readonly result: object }
  | {
      readonly id: number;
      readonly error: { readonly code: ErrorCode; readonly message: string; readonly data: ControlError['data'] };
    };

const requestFrame = Compile(
  strict({
    id: Type.Integer({ minimum: 0, maximum: Number.MAX_SAFE_INTEGER }),
    method: Type.String({ maxLength: 40 }),
    params: Type.Optional(Type.Unknown()),
  }),
);
const checks = Object.fromEntries(Object.entries(CONTROL_METHODS).map(([method, schema]) => [method, Compile(schema)]));

/** A request that came in, checked. Errors: `bad-request`; `id` is told apart so that the error can be answered. */
export const parseControlRequest = (value: unknown): ControlRequest => {
  if (!requestFrame.Check(value)) throw new CollectiveError('bad-request', 'a request has an id, a method and params');
  const { id, method } = value;
  const params = value.params ?? {};
  const check = checks[method];
  if (check === undefined || !Object.hasOwn(CONTROL_METHODS, method))
    throw new CollectiveError('bad-request', `there is no method ${method}`, { data: { id } });
  if (!check.Check(params)) {
    const [first] = check.Errors(params);
    throw new CollectiveError(
      'bad-request',
      `${method}: ${first === undefined ? 'params are not valid' : `${first.instancePath} ${first.message}`}`,
      { data: { id } },
    );
  }
  return { id, method, params } as ControlRequest;
};
