/**
 * The seam of the first address space: guest bytes by offset.
 *
 * An overlay, a recorder and an image are BlockDevices that hold the next one; the NBD session talks to the topmost.
 * Every call below the session is inside the device (`0 <= byteOffset`, `byteOffset + length <= byteLength`): the
 * session validates and replies, the layers assert.
 *
 * Two speeds. `tryRead` and `tryWrite` do their work at once, on the calling thread, or say that they cannot without
 * waiting; they never block and never throw for want of a block. `read` and `write` do the same and may wait. A
 * session tries first and falls back, so that what is in memory costs no promise and no thread hop.
 */
export interface BlockDevice {
  /** Size of the disk in bytes; a multiple of 512. */
  readonly byteLength: number;
  readonly readOnly: boolean;
  /** Whether `zero` costs much less than writing zeroes (NBD's FAST_ZERO). Absent: no. */
  readonly zeroIsFast?: boolean;

  /**
   * Fills `target` (the caller's, whole) with the bytes at `byteOffset` when all of them are in memory and verified.
   * Returns false when it would have to wait; `target` then holds anything.
   */
  tryRead(target: Buffer, byteOffset: number): boolean;

  /**
   * Fills `target` (the caller's, whole). Waits for what is missing. Abort leaves `target` undefined and rejects with
   * the signal's reason. Errors: `block-unavailable` after the device's waiting time, `local-io`.
   */
  read(target: Buffer, byteOffset: number, options?: ReadOptions): Promise<void>;

  /**
   * Takes the bytes of `source` (borrowed until return). True when the data is in the page cache; it counts as
   * acknowledged only after the next `publishWrites`. False when it would have to wait: nothing was written then.
   */
  tryWrite(source: Buffer, byteOffset: number): boolean;

  /** As `tryWrite`, and may wait. `source` is borrowed until the promise settles. Errors: `disk-full`, `local-io`, `read-only`. */
  write(source: Buffer, byteOffset: number): Promise<void>;

  /**
   * Makes every write, trim and zero that has returned visible to a restarted process (kill -9 loses none of it): the
   * live bits of newly touched granules go to the page cache. The session calls it once before each batch of replies.
   */
  publishWrites(): void;

  /** Resolves when everything acknowledged before the call survives power loss. Errors: `local-io`. */
  flush(): Promise<void>;

  /** The range reads as zeroes afterwards; its space is given back where the file system can. */
  trim(byteOffset: number, byteLength: number): Promise<void>;

  /** The range reads as zeroes afterwards. `keepAllocated` asks that later writes there cannot run out of space. */
  zero(byteOffset: number, byteLength: number, options?: { readonly keepAllocated?: boolean }): Promise<void>;

  /** What the range holds, in order, covering it exactly, neighbours of one kind merged. Never fetches a block. */
  extents(byteOffset: number, byteLength: number): Extent[];

  /** Asks for the range to be brought near; a hint that never fails and that nobody waits for. */
  warm(byteOffset: number, byteLength: number): void;

  /** Waits for work in flight, then refuses. Idempotent. */
  close(): Promise<void>;
}

export type ReadOptions = {
  readonly signal?: AbortSignal;
  /** No guest waits for it: that it lacks a block is no reason to pause the machine, and is not said. */
  readonly isBackground?: boolean;
};

/** `hole`: reads as zeroes and takes no space. */
export type Extent = { readonly byteLength: number; readonly kind: 'data' | 'hole' };
