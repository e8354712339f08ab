/** A catalogue in memory: the double for tests, and the model that the SQLite one is compared with. */
import { type Digest } from '@collective/shared';
import {
  type Account,
  type ApplianceAccess,
  type Catalogue,
  type Device,
  type Invitation,
  type People,
  type SizedChunk,
  type Token,
  type Upload,
  type UploadDisk,
  type Uploads,
  type VersionRecord,
  type Versions,
} from '../catalogue/catalogue.js';

export class MemoryCatalogue implements Catalogue {
  readonly people: People = memoryPeople();
  readonly versions: Versions = memoryVersions();
  readonly uploads: Uploads = memoryUploads();
  #last: Promise<unknown> = Promise.resolve();

  async exclusively<T>(step: () => Promise<T>): Promise<T> {
    const turn = this.#last.then(step);
    this.#last = turn.catch(() => undefined);
    return turn;
  }

  async close(): Promise<void> {}
}

const memoryPeople = (): People => {
  const invitations = new Map<Digest, Invitation>();
  const accounts = new Map<string, Account>();
  const access = new Map<string, Map<string, ApplianceAccess>>();
  const devices = new Map<Digest, Device>();
  const tokens = new Map<Digest, Token>();
  let nonces: { readonly hash: Digest; readonly device: Digest; readonly expiresAt: number }[] = [];
  const accessMap = (account: string): Map<string, ApplianceAccess> => {
    const found = access.get(account) ?? new Map<string, ApplianceAccess>();
    access.set(account, found);
    return found;
  };
  const change = <K, V>(map: Map<K, V>, key: K, by: Partial<V>): void => {
    const old = map.get(key);
    if (old !== undefined) map.set(key, { ...old, ...by });
  };
  return {
    addInvitation: async (invitation) => void invitations.set(invitation.tokenHash, invitation),
    invitation: async (tokenHash) => invitations.get(tokenHash),
    acceptInvitation: async (tokenHash, account) => {
      const invitation = invitations.get(tokenHash);
      if (invitation === undefined || accounts.has(account.name)) return false;
      accounts.set(account.name, account);
      for (const item of invitation.appliances) accessMap(account.name).set(item.name, item);
      invitations.delete(tokenHash);
      return true;
    },
    account: async (name) => accounts.get(name),
    accounts: async () => [...accounts.values()].sort((a, b) => (a.name < b.name ? -1 : 1)),
    revokeAccount: async (name, now) => {
      const account = accounts.get(name);
      if (account?.revokedAt === undefined) change(accounts, name, { revokedAt: now });
      return account !== undefined;
    },
    setPublishingKey: async (name, key) => change(accounts, name, { publishingKey: key }),
    accessOf: async (name) => [...accessMap(name).values()].sort((a, b) => (a.name < b.name ? -1 : 1)),
    setAccess: async (name, item) => void accessMap(name).set(item.name, item),
    removeAccess: async (name, appliance) => accessMap(name).delete(appliance),

    addDevice: async (device) => {
      if (devices.has(device.id)) return false;
      devices.set(device.id, device);
      return true;
    },
    device: async (id) => devices.get(id),
    devicesOf: async (account) =>
      [...devices.values()]
        .filter((device) => device.account === account)
        .sort((a, b) => a.createdAt - b.createdAt || (a.id < b.id ? -1 : 1)),
    deviceSeen: async (id, now) => change(devices, id, { lastSeenAt: now }),
    revokeDevice: async (id, now) => {
      if (devices.get(id)?.revokedAt === undefined) change(devices, id, { revokedAt: now });
    },

    addToken: async (token) => void tokens.set(token.hash, token),
    tokenHolder: async (hash) => {
      const token = tokens.get(hash);
      const account = token === undefined ? undefined : accounts.get(token.account);
      if (token === undefined || account === undefined) return undefined;
      const device = token.device === undefined ? undefined : devices.get(token.device);
      return {
        ...token,
        role: account.role,
        revoked: account.revokedAt !== undefined || device?.revokedAt !== undefined,
      };
    },
    removeToken: async (hash) => void tokens.delete(hash),
    addNonce: async (nonce, perDeviceMax) => {
      const same = nonces.filter(({ device }) => device === nonce.device);
      const dropped = new Set(same.slice(0, Math.max(0, same.length + 1 - perDeviceMax)));
      nonces = [...nonces.filter((other) => !dropped.has(other)), nonce];
    },
    takeNonce: async (hash, device, now) => {
      const found = nonces.find((nonce) => nonce.hash === hash && nonce.device === device && nonce.expiresAt > now);
      nonces = nonces.filter((nonce) => nonce !== found);
      return found !== undefined;
    },
    removeExpired: async (before) => {
      for (const [hash, token] of tokens) if (token.expiresAt < before) tokens.delete(hash);
      for (const [hash, invitation] of invitations) if (invitation.expiresAt < before) invitations.delete(hash);
      nonces = nonces.filter((nonce) => nonce.expiresAt >= before);
    },
  };
};

const memoryVersions = (): Versions => {
  const records = new Map<string, VersionRecord>();
  const live = new Map<string, Map<Digest, SizedChunk>>();
  let collections = 0;
  const key = (appliance: string, version: number): string => `${appliance}@${version}`;
  const of = (appliance: string): VersionRecord[] =>
    [...records.values()].filter((record) => record.appliance === appliance).sort((a, b) => a.version - b.version);
  const change = (appliance: string, version: number, by: Partial<VersionRecord>): void => {
    const old = records.get(key(appliance, version));
    if (old !== undefined) records.set(key(appliance, version), { ...old, ...by });
  };
  return {
    appliances: async () => [...new Set([...records.values()].map((record) => record.appliance))].sort(),
    versions: async (appliance) => of(appliance),
    version: async (appliance, version) => records.get(key(appliance, version)),
    head: async (appliance) => of(appliance).at(-1),
    recordVersion: async (record) => void records.set(key(record.appliance, record.version), record),
    removeVersion: async (appliance, version) => void records.delete(key(appliance, version)),
    setVersionState: async (appliance, version, state, stateSince) => change(appliance, version, { state, stateSince }),
    setIndexed: async (appliance, version, indexed) => change(appliance, version, { indexed }),
    addLiveChunks: async (appliance, chunks) => {
      const known = live.get(appliance) ?? new Map<Digest, SizedChunk>();
      live.set(appliance, known);
      for (const chunk of chunks) if (!known.has(chunk.digest)) known.set(chunk.digest, chunk);
    },
    removeLiveChunks: async (appliance, digests) => {
      for (const digest of digests) live.get(appliance)?.delete(digest);
    },
    liveChunks: async (digests, appliances) => {
      const found = new Map<Digest, SizedChunk>();
      for (const digest of digests) {
        for (const [appliance, known] of live) {
          const chunk = known.get(digest);
          if (chunk === undefined || appliances?.includes(appliance) === false) continue;
          found.set(digest, chunk);
          break;
        }
      }
      return found;
    },
    collectionNumber: async () => collections,
    beginCollection: async () => {
      collections += 1;
    },
  };
};

const memoryUploads = (): Uploads => {
  const uploads = new Map<string, Upload>();
  type Held = SizedChunk & { readonly durable: boolean };
  const chunks = new Map<string, Map<Digest, Held>>();
  const disks = new Map<string, Map<string, UploadDisk>>();
  const chunksOf = (id: string): Map<Digest, Held> => {
    const found = chunks.get(id) ?? new Map<Digest, Held>();
    chunks.set(id, found);
    return found;
  };
  return {
    addUpload: async (upload) => void uploads.set(upload.id, upload),
    upload: async (id) => uploads.get(id),
    openUploads: async () =>
      [...uploads.values()]
        .filter((upload) => upload.committed === undefined)
        .sort((a, b) => a.createdAt - b.createdAt || (a.id < b.id ? -1 : 1)),
    removeUpload: async (id) => {
      uploads.delete(id);
      chunks.delete(id);
      disks.delete(id);
    },
    removeEnded: async (now) => {
      for (const [id, upload] of uploads) {
        if (upload.expiresAt > now) continue;
        uploads.delete(id);
        chunks.delete(id);
        disks.delete(id);
      }
    },
    markCommitted: async (id, committed) => {
      const upload = uploads.get(id);
      if (upload !== undefined) uploads.set(id, { ...upload, committed });
      chunks.delete(id);
      disks.delete(id);
    },
    reserveChunks: async (id, digests) => {
      for (const digest of digests) {
        if (!chunksOf(id).has(digest))
          chunksOf(id).set(digest, { digest, chunkBytes: 0, plainBytes: 0, durable: false });
      }
    },
    keepChunks: async (id, kept, expiresAt) => {
      for (const chunk of kept) chunksOf(id).set(chunk.digest, { ...chunk, durable: true });
      const upload = uploads.get(id);
      if (upload !== undefined) uploads.set(id, { ...upload, expiresAt });
    },
    ownedChunks: async (id, digests) => {
      const owned = new Map<Digest, SizedChunk>();
      for (const digest of digests) {
        const held = chunksOf(id).get(digest);
        if (held?.durable !== true) continue;
        owned.set(digest, { digest, chunkBytes: held.chunkBytes, plainBytes: held.plainBytes });
      }
      return owned;
    },
    uploadTotals: async (id) => {
      const owned = [...chunksOf(id).values()].filter((chunk) => chunk.durable);
      return { chunks: owned.length, chunkBytes: owned.reduce((sum, chunk) => sum + chunk.chunkBytes, 0) };
    },
    reservedChunks: async (digests) => {
      const reserved = new Set<Digest>();
      for (const digest of digests) if ([...chunks.values()].some((known) => known.has(digest))) reserved.add(digest);
      return reserved;
    },
    setUploadDisk: async (id, disk) => {
      const known = disks.get(id) ?? new Map<string, UploadDisk>();
      disks.set(id, known.set(disk.disk, disk));
    },
    uploadDisks: async (id) => [...(disks.get(id)?.values() ?? [])].sort((a, b) => (a.disk < b.disk ? -1 : 1)),
  };
};
