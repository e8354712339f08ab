/**
 * What was sealed and is not saved yet, as backup.json holds it: one entry a snapshot, `pending` first, then `next`. Seals
 * that wait become one as long as one version wrote them; across the start of another version never, so that the state that
 * a version left is a snapshot of its own, and says who wrote it. All pure, but for
 * `isSaved` and `isCrowded`, which look at the overlays.
 */
import type { SnapshotReason } from '@collective/shared';
import type { BackupState, PackedPending, Sealed, SealedLayers, SealedPending, Writer } from './backup-file.js';
import type { SnapshotDisks } from './disk-port.js';

/** What is asked for explains a snapshot better than that its time had come. */
const WEIGHT: Readonly<Record<SnapshotReason, number>> = {
  periodic: 0,
  start: 1,
  request: 2,
  update: 3,
  suspend: 4,
  stop: 5,
  undo: 6,
};

/**
 * So many seals, and so many sealed layers of a disk, wait at most; backup.json and an overlay hold 64. What is left is for the disks that
 * are sealed to be sent again, and for layers that a kill leaves.
 */
export const SEALS_WAITING_MAX = 48;

export const isSameWriter = (a: Writer, b: Writer): boolean =>
  a.appliance === b.appliance && a.version === b.version && a.manifest === b.manifest;

/** May the later one go into the snapshot of the earlier one? */
const isMergeable = (earlier: Sealed, later: Sealed): boolean =>
  !earlier.mustPin && isSameWriter(earlier.writtenBy, later.writtenBy);

/** Two seals that become one snapshot: of each disk the upper layer, and the time of the later one. */
export const mergeSealed = (earlier: Sealed, later: Sealed): Sealed => ({
  ...later,
  reason: WEIGHT[later.reason] >= WEIGHT[earlier.reason] ? later.reason : earlier.reason,
  // A disk that the later one left out was detached, or nothing had been written to it.
  layers: [
    ...earlier.layers.map((under) => later.layers.find(({ disk }) => disk === under.disk) ?? under),
    ...later.layers.filter(({ disk }) => earlier.layers.every((under) => under.disk !== disk)),
  ],
});

/** The state with one more seal. */
export const withSealed = (state: BackupState, sealed: Sealed): BackupState => {
  if (state.pending === null) return { ...state, pending: { kind: 'sealed', ...sealed } };
  const last = state.next.at(-1);
  const isOne = last !== undefined && isMergeable(last, sealed);
  return { ...state, next: isOne ? [...state.next.slice(0, -1), mergeSealed(last, sealed)] : [...state.next, sealed] };
};

/** Is there no place for another seal of these disks? Never when nothing is on its way that would make place. */
export async function isCrowded(
  { pending, next }: BackupState,
  names: readonly string[],
  disks: Pick<SnapshotDisks, 'sealedLayers'>,
): Promise<boolean> {
  if (pending === null) return false;
  if (next.length >= SEALS_WAITING_MAX) return true;
  for (const disk of names) if ((await disks.sealedLayers(disk)).length >= SEALS_WAITING_MAX) return true;
  return false;
}

/**
 * Are these layers, which were sealed together, in a snapshot that is committed? They are gone then, or about to be taken over: seals that
 * were joined are in the snapshot of the uppermost.
 */
export async function isSaved(
  { pending }: BackupState,
  sealed: SealedLayers,
  disks: Pick<SnapshotDisks, 'sealedLayers'>,
): Promise<boolean> {
  const committed = pending?.kind === 'committed' ? pending.layers : [];
  for (const { disk, layer } of sealed) {
    const order = await disks.sealedLayers(disk);
    const upTo = order.indexOf(committed.find((one) => one.disk === disk)?.layer ?? '');
    if (order.indexOf(layer) > upTo) return false;
  }
  return true;
}

/** The state in which what is about to be packed has in it all that may go with it: it lies above, in the same overlays. */
export const withJoined = (state: BackupState): BackupState => {
  const { pending, next } = state;
  if (pending?.kind !== 'sealed') return state;
  let joined: Sealed = sealedOf(pending);
  let taken = 0;
  for (const later of next) {
    if (!isMergeable(joined, later)) break;
    joined = mergeSealed(joined, later);
    taken += 1;
  }
  return taken === 0 ? state : { ...state, pending: { kind: 'sealed', ...joined }, next: next.slice(taken) };
};

/** Is it sealed in what comes after `pending`? */
export const isSealedLater = ({ next }: BackupState, name: string): boolean =>
  next.some(({ layers }) => layers.some(({ disk }) => disk === name));

/**
 * The state in which what is about to be packed has these disks, too: with the layer that was `sealed` for it, or with the lowest one of
 * what comes after. Nobody had written to the disk by then, because all are sealed before another version is started; a new layer would lie
 * above what later versions wrote.
 */
export const withCarried = (state: BackupState, disks: ReadonlyMap<string, string | undefined>): BackupState => {
  const { pending } = state;
  if (pending?.kind !== 'sealed') return state;
  const layers = [...pending.layers];
  let { mustPin } = pending;
  let { next } = state;
  for (const [disk, sealed] of disks) {
    const at = next.findIndex((later) => later.layers.some((one) => one.disk === disk));
    const lowest = next[at]?.layers.find((one) => one.disk === disk)?.layer;
    const layer = lowest ?? sealed;
    if (layer === undefined) continue;
    layers.push({ disk, layer });
    next = next.map((later, which) =>
      which === at ? { ...later, layers: later.layers.filter((one) => one.disk !== disk) } : later,
    );
  }
  // One that has nothing else is this very state.
  mustPin ||= next.some((later) => later.layers.length === 0 && later.mustPin);
  next = next.filter((later) => later.layers.length > 0);
  return { ...state, next, pending: { ...pending, layers, mustPin } };
};

/**
 * The state in which the last that is on its way, or else the head, is the end of what a version wrote: it is to be pinned,
 * and what is sealed from now on goes into another snapshot.
 */
export const withEnd = (state: BackupState): BackupState => {
  const { pending, next, head } = state;
  const last = next.at(-1);
  if (last !== undefined) return { ...state, next: [...next.slice(0, -1), { ...last, mustPin: true }] };
  if (pending !== null && pending.kind !== 'committed') return { ...state, pending: { ...pending, mustPin: true } };
  return head === null ? state : withPin(state, head.number);
};

export const withPin = (state: BackupState, number: number, subscription = state.subscription): BackupState => {
  const { toPin } = state;
  const isKnown = toPin.some((one) => one.subscription === subscription && one.number === number);
  return isKnown ? state : { ...state, toPin: [...toPin, { subscription, number }] };
};

/** What comes after `pending`, which is over; `without`: disks whose layers went with it. */
export const withoutPending = (state: BackupState, without: ReadonlySet<string>): BackupState => {
  const left = state.next
    .map((sealed) => ({ ...sealed, layers: sealed.layers.filter(({ disk }) => !without.has(disk)) }))
    .filter(({ layers }) => layers.length > 0);
  const [first, ...next] = left;
  return { ...state, pending: first === undefined ? null : { kind: 'sealed', ...first }, next };
};

export const sealedOf = ({ reason, createdAt, layers, writtenBy, mustPin }: Sealed): Sealed => ({
  reason,
  createdAt,
  layers,
  writtenBy,
  mustPin,
});

/** To be packed once more. What an undo sealed is what is here; it brings nothing back any more. */
export const sealedAgain = (pending: PackedPending): SealedPending => ({
  kind: 'sealed',
  ...sealedOf(pending),
  reason: pending.reason === 'undo' ? 'request' : pending.reason,
});
