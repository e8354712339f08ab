/** What tests, benchmarks and the processes around blockd use of it. */
export * from './block-device.js';
export * from './block-store.js';
export { CachedStore, type CacheFiller } from './cache/cached-store.js';
export { CacheWriter, type CacheCounters, type CacheOptions } from './cache/cache-writer.js';
export { RECORD_BYTES, RECORD_WORDS } from './cache/slot-arrays.js';
export { SlotFile, slotFileName, slotTableName } from './cache/slot-file.js';
export { putDigestWords } from './cache/slot-index.js';
export { SlotReader } from './cache/slot-reader.js';
export { FLAGS_WORD, SLOT_USED, TABLE_HEADER_BYTES, encodeTableHeader, sealRecord } from './cache/slot-table.js';
export { ControlClient } from './control/control-client.js';
export type {
  BlockdStatus,
  ControlEvent,
  ControlMethod,
  ControlParams,
  ControlResults,
  DiskStatus,
} from './control/control-protocol.js';
export { FetchThread } from './fetch/fetch-thread.js';
export { ImageDevice, type ImageDeviceOptions } from './image-device.js';
export { syscalls } from './syscalls.js';
export { testDisk, type TestDisk } from './testing/test-disk.js';
export { TestRepository, type Behaviour } from './testing/test-repository.js';
