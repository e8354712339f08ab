/** What a history of snapshots begins with: a published appliance with an initial user disk, a person, two devices. */
import { type Caller, commitVersion, keysName, openUpload, setDisk, storeBatch } from '@collective/repository-server';
import {
  type Digest,
  encodeChangedPairs,
  encodeChunkBatch,
  encodeKeysFile,
  encodeVersionManifest,
  keyId,
  PAYLOAD_TYPES,
  signDeviceCertificate,
  signEnvelope,
  type SigningKey,
  type SnapshotManifest,
} from '@collective/shared';
import { BLOCK_BYTES, buildOf, mapOf } from './repository-model.js';
import { quickKey, type RepositoryWorld, type RunningProcess } from './repository-world.js';
import { INITIAL, initialBlocks } from './snapshot-model.js';

export const APPLIANCE = 'one';

export type Device = { readonly key: SigningKey; readonly id: Digest; readonly caller: Caller; lease: number };

/** An appliance with an initial user disk. */
export const publish = async (
  world: RepositoryWorld,
  { repository }: RunningProcess,
): Promise<SnapshotManifest['writtenBy']> => {
  const [alice] = world.people;
  if (alice === undefined) throw new Error('nobody is there');
  const upload = await openUpload(repository, alice.caller, APPLIANCE, undefined);
  await storeBatch(repository, upload, [], encodeChunkBatch(initialBlocks()));
  const disks = [
    { name: 'system', kind: 'system', plan: [1] },
    { name: 'user', kind: 'user', plan: INITIAL },
  ] as const;
  for (const { name, plan } of disks) {
    const pairs = encodeChangedPairs(mapOf(plan).changesSince(undefined));
    await setDisk(repository, upload, [], { name, since: undefined, pairs });
  }
  const payload = encodeVersionManifest({
    format: 1,
    appliance: APPLIANCE,
    version: 1,
    parent: null,
    createdAt: 1_800_000_000,
    title: '',
    notes: '',
    machine: {
      memoryBytes: 268_435_456,
      cpus: 1,
      chipset: 'q35',
      firmware: 'bios',
      network: 'virtio',
      display: 'none',
      guestAgent: false,
      clock: 'utc',
    },
    disks: disks.map(({ name, kind, plan }) => ({
      name,
      kind,
      bus: 'virtio',
      diskBytes: plan.length * BLOCK_BYTES,
      blockBytes: BLOCK_BYTES,
      root: buildOf(plan).root,
      base: null,
    })),
  });
  const file = signEnvelope({ payloadType: PAYLOAD_TYPES.version, payload, signers: [alice.key] });
  return { appliance: APPLIANCE, ...(await commitVersion(repository, upload, [], file)) };
};

/** The person's keys file and devices; alice is the first of the world's people. */
export const enrol = async (world: RepositoryWorld, identity: SigningKey, repository: Digest): Promise<Device[]> => {
  const [alice] = world.people;
  if (alice === undefined) throw new Error('nobody is there');
  const devices: Device[] = [];
  for (const deviceName of ['laptop', 'desktop']) {
    const key = quickKey(world.random.bytes(32));
    const id = keyId(key.publicKey);
    const { account } = alice.caller;
    const certificate = signDeviceCertificate(
      { format: 1, account, repository, deviceKey: key.publicKey, deviceName, createdAt: 0 },
      identity,
    );
    await world.catalogue.rows.people.addDevice({
      id,
      account,
      publicKey: key.publicKey,
      name: deviceName,
      createdAt: 0,
      lastSeenAt: undefined,
      revokedAt: undefined,
      certificate,
    });
    devices.push({ key, id, caller: { ...alice.caller, device: id }, lease: 0 });
  }
  world.catalogue.settle();
  const store = await world.openForCheck();
  const wrapped = Buffer.alloc(72).toString('base64url');
  const keys = encodeKeysFile({
    format: 1,
    identityKey: identity.publicKey,
    byPassword: wrapped,
    byRecoveryCode: null,
  });
  await store.create(keysName(alice.caller.account), keys);
  return devices;
};
