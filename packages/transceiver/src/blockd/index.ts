/** What tests, benchmarks and the processes around blockd use of it. */
export {
  baseFilePath,
  baseMapPath,
  BASE_MAPS_MAX,
  decodeBaseFile,
  encodeBaseFile,
  type BaseFile,
} from './base/base-file.js';
export { openBase, type OpenedBase } from './base/open-base.js';
export * from './block-device.js';
export * from './block-store.js';
export { CachedStore, type CacheFiller } from './cache/cached-store.js';
export { CacheWriter, type CacheCounters, type CacheOptions } from './cache/cache-writer.js';
export { RECORD_BYTES, RECORD_WORDS } from './cache/slot-arrays.js';
export { SlotFile, slotFileName, slotTableName } from './cache/slot-file.js';
export { putDigestWords } from './cache/slot-index.js';
export { SlotReader } from './cache/slot-reader.js';
export { alignedBuffer } from './cache/slot-scrubber.js';
export type { ScrubStatus } from './cache/scrubber.js';
export {
  FLAGS_WORD,
  SLOT_PINNED,
  SLOT_TAKEN,
  SLOT_USED,
  TABLE_HEADER_BYTES,
  encodeTableHeader,
  sealRecord,
} from './cache/slot-table.js';
export { ControlClient } from './control/control-client.js';
export type {
  BlockdStatus,
  ControlEvent,
  ControlMethod,
  ControlParams,
  ControlResults,
  DiskStatus,
} from './control/control-protocol.js';
export { systemClock, type Clock } from './clock.js';
export {
  FAULTS,
  FaultCounters,
  faultOfRequest,
  isFaultName,
  sumFaults,
  type FaultCounts,
  type FaultName,
} from './faults.js';
export { FetchClient } from './fetch/fetch-client.js';
export { FetchService } from './fetch/fetch-service.js';
export { FetchThread } from './fetch/fetch-thread.js';
export type { ConnectionPool, Repository } from './fetch/http-line.js';
export { LinkMeter } from './fetch/link-meter.js';
export { buildPublicSource, buildServingHalf, type ServingHalf } from './block-path.js';
export { NbdExport } from './nbd/nbd-export.js';
export { COMMAND, COMMAND_FLAG } from './nbd/nbd-protocol.js';
export { NbdServer } from './nbd/nbd-server.js';
export {
  decodeRequestRecording,
  encodeRequestRecording,
  type RecordedDisk,
  type RecordedRequest,
  type RequestRecordingFile,
} from './request-recording-codec.js';
export { ImageDevice, type ImageDeviceOptions } from './image-device.js';
export { Overlay } from './overlay/overlay.js';
export type { BlockKeys } from './private/block-key-ring.js';
export { syscalls } from './syscalls.js';
export { awakeMs } from './testing/awake-clock.js';
export { testDisk, type TestDisk } from './testing/test-disk.js';
export { TestRepository, type Behaviour } from './testing/test-repository.js';
