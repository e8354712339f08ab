/** Sizes that all of the overlay shares, and the named maxima of its parts. */
export const SECTOR_BYTES = 512;
/** Unit of the map and of holes: the page size and the block size of local file systems. */
export const GRANULE_BYTES = 4096;
export const SECTORS_PER_GRANULE = GRANULE_BYTES / SECTOR_BYTES;
/** The mask of a granule that is wholly in a layer. */
export const WHOLE = 0xff;

export const OVERLAY_LIMITS = {
  /** 8 TiB: granule numbers stay below 2^31. */
  diskBytesMax: 2 ** 43,
  /** Layers in one stack. */
  layersMax: 64,
  /** The stack's description. */
  descriptionBytesMax: 16 << 10,
  /** Fills of partly written granules that run at once. */
  fillsMax: 4,
  /** Partly written granules that are remembered by number; more are found again by looking through the map. */
  queuedFillsMax: 65_536,
  /** After a fill that failed (the repository is away) the next one waits this long. */
  fillRetryMs: 1_000,
  /** Runs of map bytes up to this are written by a flush on the calling thread: cheaper than sending them to another. */
  syncMapBytesMax: 64 << 10,
} as const;

export const granuleOf = (byteOffset: number): number => Math.floor(byteOffset / GRANULE_BYTES);
export const granuleCountOf = (byteLength: number): number => Math.ceil(byteLength / GRANULE_BYTES);

/** The mask of the sectors from `first` up to `end` of one granule. */
export const sectorMask = (first: number, end: number): number => (0xff >> (8 - end)) & (0xff << first) & 0xff;
