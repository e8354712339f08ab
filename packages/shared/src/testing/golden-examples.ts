/**
 * One small valid file of every format: the source of the golden files and
 * the seed of the fuzz tests. A decoder that is in this table is fuzzed. Keys are counting bytes: they protect nothing.
 * Over 400 lines: it is one table, of which every format has some.
 */
import { type Digest } from '../brands.js';
import { ChangedPairs, decodeChangedPairs, encodeChangedPairs } from '../changed-pairs.js';
import { decodeChunkBatch, encodeChunkBatch } from '../chunk-batch.js';
import { decodeChunk, encodeChunk, joinChunk, splitChunk } from '../chunk.js';
import { openDeviceCertificate, signDeviceCertificate } from '../device-certificate.js';
import { blockDigest, digestFromBytes, privateBlockDigest, sha256 } from '../digest.js';
import { PAYLOAD_TYPES, type PayloadType, openEnvelope, requireSignatures, signEnvelope } from '../envelope.js';
import { type ErrorCode } from '../errors.js';
import { type Letter, decodeLetter, encodeLetter } from '../letter.js';
import { type Heads, decodeHeads, encodeHeads, openHeads } from '../heads.js';
import { type JoinLink, formatJoinLink, parseJoinLink } from '../join-link.js';
import { type KeysFile, decodeKeysFile, encodeKeysFile } from '../keys-file.js';
import { type VersionManifest, decodeVersionManifest, encodeVersionManifest } from '../manifest.js';
import { type MapPage, decodeMapPage, encodeMapPage } from '../map-page.js';
import { type DiskUse, decodeDiskUse, encodeDiskUse } from '../disk-use.js';
import { deriveEpochKeys, derivePersonKeys } from '../person-keys.js';
import { decodePrivateChunk, encodePrivateChunk } from '../private-chunk.js';
import {
  decodeTraceChunk,
  encodeTraceChunk,
  namePrivateTrace,
  openPrivateTrace,
  privateTraceKey,
  sealPrivateTrace,
  USER_DISK,
} from '../private-trace.js';
import { type Profile, decodeProfile, encodeProfile, openProfile, readSealedProfile, sealProfile } from '../profile.js';
import { type SigningKey, signingKeyFromSeed } from '../signing-key.js';
import { type SnapshotManifest, decodeSnapshotManifest, encodeSnapshotManifest } from '../snapshot-manifest.js';
import { decodeSnapshotObject, encodeSnapshotObject } from '../snapshot-object.js';
import { encodeJson, parseStrictJson } from '../strict-json.js';
import { type BootTrace, decodeBootTrace, encodeBootTrace } from '../trace.js';
import { type UseRecord, decodeUseRecord, encodeUseRecord } from '../use-record.js';
import { type TrustFile, decodeTrustFile, encodeTrustFile, followTrust, openFirstTrust } from '../trust-file.js';

export type GoldenExample = {
  /** Path under golden/: `<format>-v<version>/<file>`. */
  readonly path: string;
  /** The file's bytes; the same each time, unless `isRandom` (a random nonce is part of the format). */
  readonly write: () => Buffer;
  readonly isRandom?: true;
  readonly decode: (bytes: Buffer) => unknown;
  /** Decodes and encodes again. */
  readonly reencode: (bytes: Buffer) => Buffer;
  /** What the decoder may throw beside `malformed`, `too-large` and `unknown-format`. */
  readonly codes: readonly ErrorCode[];
};

/** `length` counting bytes from `first`. */
export const countingBytes = (length: number, first = 0): Buffer =>
  Buffer.from(Uint8Array.from({ length }, (_unused, index) => (first + index) & 255));

const digestOf = (text: string): Digest => sha256(Buffer.from(text, 'ascii'));
const key = (first: number): SigningKey => signingKeyFromSeed(countingBytes(32, first));

const textBlock = Buffer.alloc(4_096, 'A block of text compresses well. ');
const rawBlock = countingBytes(16);
const person = derivePersonKeys(countingBytes(32));
const epoch = deriveEpochKeys(person.firstEpochSecret);
const privateDigest = privateBlockDigest(epoch.blockNameKey, textBlock);
const privateOptions = {
  key: epoch.chunkKey,
  nameKey: epoch.blockNameKey,
  epoch: 1,
  digest: privateDigest,
  plainBytes: 4_096,
};

export const goldenLeaf: MapPage = {
  level: 0,
  entries: [
    { kind: 'zero' },
    { kind: 'public', digest: blockDigest(textBlock) },
    { kind: 'inherit' },
    { kind: 'private', digest: privateDigest },
    { kind: 'zero' },
  ],
};

const innerPage: MapPage = {
  level: 1,
  entries: [{ kind: 'zero' }, { kind: 'public', digest: sha256(encodeMapPage(goldenLeaf)) }, { kind: 'inherit' }],
};

const rootKeys = [key(1), key(2), key(3)];
const headsKey = key(10);
const publisherKey = key(20);
const deviceKey = key(30);
const createdAt = 1_700_000_000;

export const goldenTrust: TrustFile = {
  format: 1,
  number: 1,
  createdAt,
  rootKeys: rootKeys.map(({ publicKey }) => publicKey),
  rootThreshold: 2,
  headsKeys: [headsKey.publicKey],
  publishers: [{ name: 'anna', key: publisherKey.publicKey, appliances: ['*'] }],
  recount: [],
};

const nextTrust: TrustFile = {
  ...goldenTrust,
  number: 2,
  publishers: [{ name: 'anna', key: key(21).publicKey, appliances: ['debian-server', 'tiny'] }],
  recount: [{ appliance: 'debian-server', version: 3, since: 2 }],
};

const signed = (payloadType: PayloadType, payload: Buffer, ...signers: SigningKey[]): Buffer =>
  signEnvelope({ payloadType, payload, signers });

export const goldenFirstTrustFile = signed(PAYLOAD_TYPES.trust, encodeTrustFile(goldenTrust), ...rootKeys.slice(0, 2));
const identity = sha256(goldenFirstTrustFile);

export const goldenVersion: VersionManifest = {
  format: 1,
  appliance: 'debian-server',
  version: 2,
  parent: { version: 1, manifest: digestOf('the manifest file of version 1') },
  createdAt,
  title: 'Debian 12 server',
  notes: 'Grüße',
  machine: {
    memoryBytes: 1_073_741_824,
    cpus: 2,
    chipset: 'q35',
    firmware: 'bios',
    network: 'virtio',
    display: 'none',
    guestAgent: true,
    clock: 'utc',
  },
  disks: [
    {
      name: 'system',
      kind: 'system',
      bus: 'virtio',
      diskBytes: 2_147_483_648,
      blockBytes: 65_536,
      root: digestOf('the root page of the system disk'),
      base: null,
    },
    { name: 'user', kind: 'user', bus: 'virtio', diskBytes: 1_073_741_824, blockBytes: 16_384, root: null, base: null },
    {
      name: 'ephemeral',
      kind: 'ephemeral',
      bus: 'virtio',
      diskBytes: 1_073_741_824,
      blockBytes: 65_536,
      root: null,
      base: null,
    },
  ],
};

export const goldenSnapshot: SnapshotManifest = {
  format: 1,
  subscription: '000102030405060708090a0b0c0d0e0f',
  number: 3,
  parent: { number: 2, manifest: digestOf('the manifest file of snapshot 2') },
  createdAt,
  reason: 'suspend',
  lease: 7,
  device: digestFromBytes(countingBytes(32)),
  epoch: 1,
  writtenBy: { appliance: 'debian-server', version: 2, manifest: digestOf('the manifest file of version 2') },
  disks: [
    {
      name: 'user',
      kind: 'user',
      bus: 'virtio',
      diskBytes: 1_073_741_824,
      blockBytes: 16_384,
      root: digestOf('the root page of the user disk'),
      base: digestOf('the root page of the initial user disk'),
    },
    {
      name: 'ram',
      kind: 'memory',
      bus: 'virtio',
      diskBytes: 1_073_741_824,
      blockBytes: 4_096,
      root: digestOf('the root page of the memory'),
      base: null,
    },
  ],
  objects: [1, 3],
  memory: {
    qemu: '7.2.19 (Debian 1:7.2+dfsg-7+deb12u16)',
    machineType: 'pc-q35-7.2',
    cpuModel: 'Nehalem',
    accelerator: 'tcg',
    ramBytes: 1_073_741_824,
    deviceState: [digestOf('the device state')],
    layers: [digestOf('the layer')],
    userHead: digestOf('the manifest file of snapshot 2'),
  },
};

const tracedSnapshot: SnapshotManifest = {
  ...goldenSnapshot,
  disks: goldenSnapshot.disks.map((disk) =>
    disk.kind === 'user' ? { ...disk, trace: digestOf('the boot trace of the user disk') } : disk,
  ),
};

const goldenLetter: Letter = {
  format: 1,
  appliance: 'debian-server',
  version: 3,
  manifest: digestOf('the manifest file of version 3'),
  account: 'ursula',
};

export const goldenHeads: Heads = {
  format: 1,
  number: 5,
  trust: 1,
  createdAt,
  expiresAt: createdAt + 604_800,
  heads: [{ appliance: 'debian-server', version: 2, manifest: digestOf('the manifest file of version 2') }],
};

const headsWithCandidates: Heads = {
  ...goldenHeads,
  number: 6,
  candidates: [{ appliance: 'debian-server', version: 3, manifest: goldenLetter.manifest }],
  mandatory: [{ appliance: 'debian-server', version: 2, from: createdAt + 86_400, graceDays: 7 }],
};

const keysFile: KeysFile = {
  format: 1,
  identityKey: person.identity.publicKey,
  byPassword: countingBytes(72).toString('base64url'),
  byRecoveryCode: null,
};

export const goldenProfile: Profile = {
  format: 1,
  number: 4,
  account: 'anna',
  repository: {
    identity,
    origin: 'https://repository.example:8443',
    pin: countingBytes(32).toString('base64url'),
  },
  devices: [{ device: digestFromBytes(countingBytes(32)), name: 'office laptop', createdAt }],
  epochs: [{ epoch: 2, secret: countingBytes(32, 64).toString('base64url'), createdAt }],
  formerIdentities: [],
  subscriptions: [
    {
      id: '000102030405060708090a0b0c0d0e0f',
      appliance: 'debian-server',
      name: 'Debian 12 server',
      head: {
        number: 3,
        manifest: digestOf('the manifest file of snapshot 3'),
        savedAt: createdAt,
        deviceName: 'office laptop',
      },
    },
    { id: '101112131415161718191a1b1c1d1e1f', appliance: 'tiny', name: 'tiny', head: null },
  ],
};

const joinLink: JoinLink = {
  origin: 'https://repository.example:8443',
  identity,
  pin: countingBytes(32).toString('base64url'),
  invite: countingBytes(32, 32).toString('base64url'),
};

const certificate = {
  format: 1,
  account: 'anna',
  repository: identity,
  deviceKey: deviceKey.publicKey,
  deviceName: 'office laptop',
  createdAt,
} as const;

const bootTrace: BootTrace = {
  version: 2,
  root: digestOf('the root page of the system disk'),
  blockBytes: 65_536,
  touches: [
    { blockIndex: 0, afterMs: 0, phase: 0, chunkBytes: 65600 },
    { blockIndex: 4_000, afterMs: 812, phase: 1, chunkBytes: 0 },
    { blockIndex: 17, afterMs: 812, phase: 2, chunkBytes: 1234 },
  ],
};
/** The same as a server gives it that has packed its blocks. */
const packedBootTrace: BootTrace = {
  ...bootTrace,
  segments: [
    { digest: digestOf('two blocks'), touches: 2, chunkBytes: 66_000 },
    { digest: digestOf('one block'), touches: 1, chunkBytes: 1_200 },
  ],
};

/** A boot of three blocks, then two applications. */
const useRecord: UseRecord = {
  version: 2,
  root: bootTrace.root,
  blockBytes: 65_536,
  bursts: [
    [0, 4_000, 17],
    [300, 301, 90],
    [7, 8],
  ],
};
const diskUse: DiskUse = {
  version: 2,
  root: bootTrace.root,
  blockBytes: 65_536,
  records: 5,
  blocks: [
    { blockIndex: 0, records: 5 },
    { blockIndex: 17, records: 5 },
    { blockIndex: 300, records: 3 },
    { blockIndex: 90, records: 2 },
  ],
  groups: [
    { blocks: [300, 301, 90], triggers: 1 },
    { blocks: [7, 8], triggers: 1 },
  ],
};

const privateTrace: BootTrace = { ...bootTrace, ...USER_DISK, blockBytes: 16_384 };
const traceKey = privateTraceKey(person.diskKey);
const traceName = namePrivateTrace(epoch.blockNameKey, privateTrace);

/** Two files' worth of rules in one line: verify, then parse. */
const openSigned = <T>(
  bytes: Buffer,
  options: { readonly payloadType: PayloadType; readonly by: SigningKey; readonly decode: (payload: Buffer) => T },
): T => {
  const envelope = openEnvelope(bytes, options);
  requireSignatures(envelope, [options.by.publicKey], { threshold: 1, what: 'example' });
  return options.decode(envelope.payload);
};

const openVersion = (bytes: Buffer): VersionManifest =>
  openSigned(bytes, { payloadType: PAYLOAD_TYPES.version, by: publisherKey, decode: decodeVersionManifest });
const openSnapshot = (bytes: Buffer): SnapshotManifest =>
  openSigned(bytes, { payloadType: PAYLOAD_TYPES.snapshot, by: deviceKey, decode: decodeSnapshotManifest });

const SIGNED_CODES = ['untrusted', 'bad-signature'] as const;

const document = <T>(
  path: string,
  value: T,
  codec: {
    readonly encode: (value: T) => Buffer;
    readonly decode: (bytes: Uint8Array) => T;
    readonly codes?: readonly ErrorCode[];
  },
): GoldenExample => ({
  path,
  write: () => codec.encode(value),
  decode: (bytes) => codec.decode(bytes),
  reencode: (bytes) => codec.encode(codec.decode(bytes)),
  codes: codec.codes ?? [],
});

export const GOLDEN_EXAMPLES: readonly GoldenExample[] = [
  {
    path: 'chunk-v1/raw.chunk',
    write: () => encodeChunk(rawBlock),
    decode: (bytes) => decodeChunk(bytes, { digest: blockDigest(rawBlock), plainBytes: 16 }),
    reencode: (bytes) => encodeChunk(decodeChunk(bytes, { digest: blockDigest(rawBlock), plainBytes: 16 })),
    codes: ['digest-mismatch'],
  },
  {
    // Not compressed again in the test: another zstd makes another, equally valid frame.
    path: 'chunk-v1/zstd.chunk',
    write: () => encodeChunk(textBlock),
    decode: (bytes) => decodeChunk(bytes, { digest: blockDigest(textBlock), plainBytes: 4_096 }),
    reencode: (bytes) => {
      const { header, payload } = splitChunk(bytes);
      return joinChunk(header, payload);
    },
    codes: ['digest-mismatch'],
  },
  {
    path: 'chunk-v1/private.chunk',
    write: () => encodePrivateChunk(textBlock, privateOptions),
    isRandom: true,
    decode: (bytes) => decodePrivateChunk(bytes, privateOptions),
    reencode: (bytes) => {
      const { header, payload } = splitChunk(bytes);
      return joinChunk(header, payload);
    },
    codes: ['digest-mismatch'],
  },
  {
    path: 'chunk-batch-v1/two.batch',
    write: () =>
      encodeChunkBatch(
        [rawBlock, textBlock].map((block) => ({ digest: blockDigest(block), chunk: encodeChunk(block) })),
      ),
    decode: (bytes) => decodeChunkBatch(bytes),
    reencode: (bytes) => encodeChunkBatch(decodeChunkBatch(bytes)),
    codes: [],
  },
  {
    // The codec does not look into the chunks, so public ones, which are the same each time, do as well.
    path: 'snapshot-object-v1/two.object',
    write: () =>
      encodeSnapshotObject(
        [textBlock, rawBlock].map((block) => ({ digest: blockDigest(block), chunk: encodeChunk(block) })),
      ),
    decode: (bytes) => decodeSnapshotObject(bytes),
    reencode: (bytes) => encodeSnapshotObject(decodeSnapshotObject(bytes)),
    codes: ['digest-mismatch'],
  },
  document('map-page-v1/leaf.page', goldenLeaf, { encode: encodeMapPage, decode: decodeMapPage }),
  document('map-page-v1/inner.page', innerPage, { encode: encodeMapPage, decode: decodeMapPage }),
  document(
    'changed-pairs-v1/four.pairs',
    ChangedPairs.of({ diskBytes: 1_048_576, blockBytes: 4_096 }, [
      { blockIndex: 0, entry: { kind: 'zero' } },
      { blockIndex: 1, entry: { kind: 'public', digest: blockDigest(textBlock) } },
      { blockIndex: 7, entry: { kind: 'inherit' } },
      { blockIndex: 255, entry: { kind: 'private', digest: privateDigest } },
    ]),
    { encode: encodeChangedPairs, decode: decodeChangedPairs },
  ),
  document<unknown>(
    'strict-json-v1/all-kinds.json',
    { text: 'Grüße "\n"', number: -9_007_199_254_740_991, list: [true, false, null, {}, []] },
    {
      encode: encodeJson,
      decode: (bytes): unknown => parseStrictJson(bytes, { bytesMax: 1_000 }),
    },
  ),
  document('version-v1/payload.json', goldenVersion, {
    encode: encodeVersionManifest,
    decode: decodeVersionManifest,
    codes: ['bad-machine'],
  }),
  document('version-v1/manifest', goldenVersion, {
    encode: (value) => signed(PAYLOAD_TYPES.version, encodeVersionManifest(value), publisherKey),
    decode: (bytes) => openVersion(Buffer.from(bytes)),
    codes: [...SIGNED_CODES, 'bad-machine'],
  }),
  document('snapshot-v1/payload.json', goldenSnapshot, {
    encode: encodeSnapshotManifest,
    decode: decodeSnapshotManifest,
  }),
  document('snapshot-v1/traced.json', tracedSnapshot, {
    encode: encodeSnapshotManifest,
    decode: decodeSnapshotManifest,
  }),
  document('snapshot-v1/manifest', goldenSnapshot, {
    encode: (value) => signed(PAYLOAD_TYPES.snapshot, encodeSnapshotManifest(value), deviceKey),
    decode: (bytes) => openSnapshot(Buffer.from(bytes)),
    codes: SIGNED_CODES,
  }),
  document('trust-v1/payload.json', goldenTrust, { encode: encodeTrustFile, decode: decodeTrustFile }),
  document('trust-v1/1', goldenTrust, {
    encode: (value) => signed(PAYLOAD_TYPES.trust, encodeTrustFile(value), ...rootKeys.slice(0, 2)),
    // With the digest of what is read, so that a test gets behind the first check.
    decode: (bytes) => openFirstTrust(bytes, sha256(bytes)),
    codes: SIGNED_CODES,
  }),
  document('trust-v1/2', nextTrust, {
    encode: (value) => signed(PAYLOAD_TYPES.trust, encodeTrustFile(value), ...rootKeys.slice(1, 3)),
    decode: (bytes) => followTrust(goldenTrust, bytes),
    codes: [...SIGNED_CODES, 'rollback'],
  }),
  document('letter-v1/payload.json', goldenLetter, { encode: encodeLetter, decode: decodeLetter }),
  document('heads-v1/candidates.json', headsWithCandidates, { encode: encodeHeads, decode: decodeHeads }),
  document('heads-v1/payload.json', goldenHeads, { encode: encodeHeads, decode: decodeHeads }),
  {
    path: 'heads-v1/heads',
    write: () => signed(PAYLOAD_TYPES.heads, encodeHeads(goldenHeads), headsKey),
    decode: (bytes) => openHeads(bytes, goldenTrust),
    reencode: (bytes) => {
      const { digest: _digest, ...heads } = openHeads(bytes, goldenTrust);
      return signed(PAYLOAD_TYPES.heads, encodeHeads(heads), headsKey);
    },
    codes: [...SIGNED_CODES, 'rollback'],
  },
  document('keys-file-v1/keys.json', keysFile, { encode: encodeKeysFile, decode: decodeKeysFile }),
  document('profile-v1/payload.json', goldenProfile, { encode: encodeProfile, decode: decodeProfile }),
  {
    path: 'profile-v1/profile',
    write: () => sealProfile(goldenProfile, person),
    isRandom: true,
    decode: (bytes) => openProfile(bytes, person),
    // Sealed again it would have another nonce.
    reencode: (bytes) => {
      const { number, box } = readSealedProfile(bytes, person.identity.publicKey);
      const payload = Buffer.concat([Buffer.alloc(4), box]);
      payload.writeUInt32LE(number, 0);
      return signed(PAYLOAD_TYPES.profile, payload, person.identity);
    },
    codes: SIGNED_CODES,
  },
  document('boot-trace-v2/three.trace', bootTrace, { encode: encodeBootTrace, decode: decodeBootTrace }),
  document('boot-trace-v2/packed.trace', packedBootTrace, {
    encode: encodeBootTrace,
    decode: decodeBootTrace,
  }),
  document('use-record-v1/session.use', useRecord, { encode: encodeUseRecord, decode: decodeUseRecord }),
  document('disk-use-v1/merged.use', diskUse, { encode: encodeDiskUse, decode: decodeDiskUse }),
  {
    path: 'private-trace-v1/three.box',
    write: () => sealPrivateTrace(traceKey, privateTrace),
    isRandom: true,
    decode: (bytes) => openPrivateTrace(traceKey, bytes),
    // Sealed again it would have another nonce.
    reencode: (bytes) => {
      openPrivateTrace(traceKey, bytes);
      return bytes;
    },
    codes: ['digest-mismatch'],
  },
  {
    path: 'private-trace-v1/three.chunk',
    write: () => encodeTraceChunk(traceName, { epoch: 1, chunkKey: epoch.chunkKey }),
    isRandom: true,
    decode: (bytes) => decodeTraceChunk(bytes, { digest: traceName.digest, keysOf: () => epoch }),
    reencode: (bytes) => {
      const { header, payload } = splitChunk(bytes);
      return joinChunk(header, payload);
    },
    codes: ['digest-mismatch'],
  },
  document<JoinLink>('join-link-v1/link.txt', joinLink, {
    encode: (value) => Buffer.from(formatJoinLink(value), 'utf8'),
    decode: (bytes) => parseJoinLink(Buffer.from(bytes).toString('utf8')),
    codes: ['usage'],
  }),
  document<ReturnType<typeof openDeviceCertificate>>('device-certificate-v1/certificate', certificate, {
    encode: (value) => signDeviceCertificate(value, person.identity),
    decode: (bytes) => openDeviceCertificate(bytes, person.identity.publicKey),
    codes: SIGNED_CODES,
  }),
];
