/**
 * One word a slot: bit 0 the verified mark, the rest a sequence number. It is seqlock and mark at once.
 *
 * Verified: the slot's whole content was checked against its digest (or was written by us) since the sequence moved last. The reader's
 * sums are of that content. Whoever sees a page of it missing takes the mark away, so that the slot is read and checked as a whole
 * again; and because the sequence moves with it, a check that began before cannot put the mark back. The writer moves the sequence before
 * it gives a slot other content, so that a reader which sees the same word before and after its read has read one content.
 *
 *   reader   word = load; verified? digest equal? read; load === word ? bytes are good : not
 *   checker  word = load; read whole slot; digest right? compareExchange(word -> word | 1)
 *   refused  word = load; compareExchange(word -> next sequence, no mark)
 *   writer   next sequence, no mark; (nobody reads it? else give it back); record and content; word | 1
 */
export const VERIFIED = 1;

export const isVerified = (word: number): boolean => (word & VERIFIED) !== 0;

const nextSequence = (word: number): number => ((word | VERIFIED) + 1) | 0;

/** Takes the mark away and moves the sequence. Returns the new word. */
export const invalidate = (states: Int32Array, slot: number): number => {
  for (;;) {
    const word = Atomics.load(states, slot);
    const next = nextSequence(word);
    if (Atomics.compareExchange(states, slot, word, next) === word) return next;
  }
};

/** Sets the mark if nothing has happened to the slot since `word` was loaded. */
export const markVerified = (states: Int32Array, slot: number, word: number): boolean =>
  Atomics.compareExchange(states, slot, word, word | VERIFIED) === word;

/** Whether the slot still has the content that it had when `word` was loaded; a mark set meanwhile does not matter. */
export const isSameContent = (states: Int32Array, slot: number, word: number): boolean =>
  (Atomics.load(states, slot) | VERIFIED) === (word | VERIFIED);

/** Announces an asynchronous read: the writer does not reuse the slot meanwhile. False when too many are under way. */
export const holdSlot = (readers: Uint8Array, slot: number): boolean => {
  if (Atomics.add(readers, slot, 1) < 200) return true;
  Atomics.sub(readers, slot, 1);
  return false;
};

export const releaseSlot = (readers: Uint8Array, slot: number): void => {
  Atomics.sub(readers, slot, 1);
};

export const isHeld = (readers: Uint8Array, slot: number): boolean => Atomics.load(readers, slot) !== 0;
