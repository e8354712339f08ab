/**
 * Steps 3 and 4 (docs/adr/0020): the object is sent, the manifest committed, and the answer noted. Whatever is lost on the
 * way, asking again with the same bytes is the same. When the lease changed since the manifest was signed, it is signed
 * again, after a look whether it was committed before: under the old lease nothing is any more, once a new one was taken.
 */
import {
  CollectiveError,
  hasCode,
  decodeSnapshotManifest,
  openEnvelope,
  PAYLOAD_TYPES,
  sha256,
  type Digest,
} from '@collective/shared';
import type { ApartReason, PackedPending } from './backup-file.js';
import { signalOf } from './backup-person.js';
import { deviceNameOf, type LeaseKeeper } from './lease-keeper.js';
import { objectPath, type StepContext } from './pack-step.js';
import { sealedAgain } from './pending-seals.js';
import { findCommit, remoteSubscription, type FoundCommit } from './remote-head.js';
import { signManifest } from './sign-snapshot.js';
import type { SnapshotName } from './snapshot-trust.js';
import { uploadObject } from './upload-snapshot.js';

export type UploadOutcome =
  | { readonly kind: 'committed'; readonly head: FoundCommit }
  /** What it was packed with does not count any more; it is packed again. */
  | { readonly kind: 'pack-again' }
  | {
      readonly kind: 'apart';
      readonly why: ApartReason;
      readonly head: SnapshotName | null;
      readonly deviceName: string;
    };

/** Errors: those that retry-plan.ts sorts. */
export async function uploadPending(
  context: StepContext,
  leases: LeaseKeeper,
  signal: AbortSignal,
): Promise<UploadOutcome> {
  const { parts, file } = context;
  await register(context, signal);
  const held = await heldLease(context, leases, signal);
  if (held !== undefined) return held;
  const pending = await renewManifest(context, signal);
  if (pending === undefined) return { kind: 'pack-again' };
  if ('head' in pending) return pending;
  const { manifest, envelope } = openPending(pending);
  const { subscription } = file.state;
  try {
    const upload = await uploadObject({
      ...{ client: parts.person.client, subscription, path: objectPath(parts.folder) },
      snapshot: { number: manifest.number, parent: manifest.parent, lease: manifest.lease },
      ...{ objectBytes: pending.objectBytes, known: pending.upload, gate: parts.gate, line: parts.line },
      nowMs: () => parts.clock.nowMs(),
      remember: async (opened) => {
        await changePending(context, { upload: opened });
        await parts.onStep?.('upload-opened');
      },
      onPart: async () => parts.onStep?.('part-sent'),
      signal,
    });
    await parts.onStep?.('object-sent');
    const head = await parts.person.client.call('commitSnapshot', {
      params: { subscription, upload },
      body: envelope,
      ...signalOf(signal),
    });
    await parts.onStep?.('snapshot-committed');
    return { kind: 'committed', head };
  } catch (error) {
    if (!(error instanceof CollectiveError)) throw error;
    return explain(context, { error, pending, lease: manifest.lease, leases }, signal);
  }
}

/** What a refusal means. Errors: the same again, when trying again is the answer. */
async function explain(
  context: StepContext,
  refused: {
    readonly error: CollectiveError;
    readonly pending: PackedPending;
    readonly lease: number;
    readonly leases: LeaseKeeper;
  },
  signal: AbortSignal,
): Promise<UploadOutcome> {
  const { error, pending, lease, leases } = refused;
  switch (error.code) {
    case 'conflict':
    case 'lease-lost':
    case 'lease-held': {
      // Ahead of everything: it may be ours that is there.
      const ours = await ourCommit(context, pending, signal);
      if (ours !== undefined) return { kind: 'committed', head: ours };
      if (error.code === 'lease-lost') await leases.lost(lease, error);
      const remote = await remoteSubscription(context.parts.person.client, context.file.state.subscription, signal);
      const head = remote?.head ?? null;
      if (error.code === 'conflict') {
        const known = context.file.state.head;
        // The upload had become a snapshot, or it is the head that we know: only the session is of no use.
        if (head?.manifest === known?.manifest) return forgetUpload(context, error);
        if (head !== null && (await followGivenUp(context, head))) return { kind: 'pack-again' };
        const deviceName = remote?.lease?.deviceName ?? '';
        return { kind: 'apart', why: 'other-head', head: nameOf(head), deviceName };
      }
      return { kind: 'apart', why: error.code, head: nameOf(head), deviceName: deviceNameOf(error) };
    }
    case 'not-found':
      return forgetUpload(context, error);
    case 'block-missing':
    case 'digest-mismatch':
    case 'malformed':
    case 'bad-request':
    case 'too-large':
      if (pending.reason === 'undo') {
        // The old state cannot be had back: what is here stays, and the person learns why.
        await context.file.update((state) => ({ ...state, pending: sealedAgain(pending) }));
        throw error;
      }
      // What it builds on is not there as it was thought: once more, with everything in it.
      if (context.file.state.mustResend) throw error;
      await context.file.update((state) => ({ ...state, mustResend: true, pending: sealedAgain(pending) }));
      return { kind: 'pack-again' };
    case 'local-io':
      // Our object's file is gone or cut off; the layers are still there.
      if (error.data['local'] !== true) throw error;
      await context.file.update((state) => ({ ...state, pending: sealedAgain(pending) }));
      return { kind: 'pack-again' };
    default:
      throw error;
  }
}

/**
 * The head is an undo of this very device, which was given up here because nobody knew that it had arrived (prepareStart). Nobody else went
 * on: what is here follows it. True when it was that.
 */
export async function followGivenUp({ parts, file }: StepContext, head: FoundCommit): Promise<boolean> {
  const { givenUp } = file.state;
  if (givenUp?.number !== head.number || givenUp.manifest !== head.manifest) return false;
  await file.update(({ givenUp: _known, ...state }) => ({
    ...state,
    head: { ...head, deviceName: parts.person.deviceName },
    mustCommit: true,
    pending: state.pending?.kind === 'packed' ? sealedAgain(state.pending) : state.pending,
  }));
  return true;
}

async function forgetUpload(context: StepContext, error: CollectiveError): Promise<UploadOutcome> {
  const { pending } = context.file.state;
  if (pending?.kind !== 'packed' || pending.upload === null) throw error;
  await changePending(context, { upload: null });
  // The step begins again, with an upload of its own.
  throw new CollectiveError('wrong-offset', error.message, { cause: error });
}

/** Made known to the server when the first snapshot goes there. */
export async function register({ parts, file }: StepContext, signal?: AbortSignal): Promise<void> {
  const { isRegistered, subscription, appliance } = file.state;
  if (isRegistered) return;
  await parts.person.client.call('createSubscription', {
    params: { subscription },
    body: { appliance },
    ...signalOf(signal),
  });
  await file.update((state) => ({ ...state, isRegistered: true }));
}

/** The state apart when somebody else holds the lease; undefined when it is here. */
async function heldLease(
  context: StepContext,
  leases: LeaseKeeper,
  signal: AbortSignal,
): Promise<UploadOutcome | undefined> {
  const { parts, file } = context;
  if (leases.lease !== null) return undefined;
  try {
    await leases.take('free', signal);
    await parts.onStep?.('lease-taken');
    return undefined;
  } catch (error) {
    if (!hasCode(error, 'lease-held')) throw error;
    const { pending } = file.state;
    const ours = pending?.kind === 'packed' ? await ourCommit(context, pending, signal) : undefined;
    if (ours !== undefined) return { kind: 'committed', head: ours };
    const remote = await remoteSubscription(parts.person.client, file.state.subscription, signal);
    return { kind: 'apart', why: 'lease-held', head: nameOf(remote?.head ?? null), deviceName: deviceNameOf(error) };
  }
}

/**
 * The pending manifest, signed for the lease that is held. Undefined: there is none. An outcome when it was committed under
 * the one before.
 */
async function renewManifest(
  context: StepContext,
  signal: AbortSignal,
): Promise<PackedPending | Extract<UploadOutcome, { kind: 'committed' }> | undefined> {
  const { parts, file } = context;
  const { pending, lease } = file.state;
  if (pending?.kind !== 'packed') return undefined;
  const { manifest } = openPending(pending);
  if (manifest.lease === (lease ?? 0)) return pending;
  const ours = await ourCommit(context, pending, signal);
  if (ours !== undefined) return { kind: 'committed', head: ours };
  const renewed = signManifest({ ...manifest, lease: lease ?? 0 }, parts.person.deviceKey);
  await changePending(context, { manifest: renewed.toString('base64') });
  await parts.onStep?.('manifest-renewed');
  const now = file.state.pending;
  return now?.kind === 'packed' ? now : undefined;
}

export const openPending = (
  pending: PackedPending,
): {
  readonly manifest: ReturnType<typeof decodeSnapshotManifest>;
  readonly envelope: Buffer;
  readonly digest: Digest;
} => {
  const envelope = Buffer.from(pending.manifest, 'base64');
  const { payload } = openEnvelope(envelope, { payloadType: PAYLOAD_TYPES.snapshot });
  return { manifest: decodeSnapshotManifest(payload), envelope, digest: sha256(envelope) };
};

const ourCommit = async (
  { parts, file }: StepContext,
  pending: PackedPending,
  signal: AbortSignal,
): Promise<FoundCommit | undefined> =>
  findCommit(
    parts.person.client,
    {
      subscription: file.state.subscription,
      number: pending.number,
      manifest: openPending(pending).digest,
      createdAt: pending.createdAt,
    },
    signal,
  );

const changePending = async (
  { file }: StepContext,
  change: Partial<Pick<PackedPending, 'upload' | 'manifest'>>,
): Promise<void> => {
  await file.update((state) =>
    state.pending?.kind === 'packed' ? { ...state, pending: { ...state.pending, ...change } } : state,
  );
};

const nameOf = (head: { readonly number: number; readonly manifest: Digest } | null): SnapshotName | null =>
  head === null ? null : { number: head.number, manifest: head.manifest };
