/**
 * A catalogue in memory: the double for tests, and the model that the SQLite one is compared with. Its state can be
 * copied and given to another one, so that the simulation can go back to what a power cut would have left.
 */
import { type Digest } from '@collective/shared';
import {
  type Account,
  type ApplianceAccess,
  type Catalogue,
  type Device,
  endedUpload,
  type Invitation,
  type PasswordChange,
  type People,
  type SizedChunk,
  type Token,
  type Upload,
  type UploadDisk,
  type Uploads,
  type VersionRecord,
  type Versions,
} from '../catalogue/catalogue.js';
import { type Subscriptions } from '../catalogue/subscriptions.js';
import { memorySubscriptions, SubscriptionTables } from './memory-subscriptions.js';

type Held = SizedChunk & { readonly durable: boolean };
type Nonce = { readonly hash: Digest; readonly device: Digest; readonly expiresAt: number };

/** What would be in the tables. Rows are never changed, only replaced, so a copy of the maps is a copy of all. */
export class MemoryTables {
  readonly invitations = new Map<Digest, Invitation>();
  readonly accounts = new Map<string, Account>();
  readonly access = new Map<string, Map<string, ApplianceAccess>>();
  readonly devices = new Map<Digest, Device>();
  readonly tokens = new Map<Digest, Token>();
  nonces: readonly Nonce[] = [];
  readonly records = new Map<string, VersionRecord>();
  readonly live = new Map<string, Map<Digest, SizedChunk>>();
  readonly counters = { collections: 0, heads: 0 };
  readonly uploads = new Map<string, Upload>();
  readonly chunks = new Map<string, Map<Digest, Held>>();
  readonly disks = new Map<string, Map<string, UploadDisk>>();
  subscriptions = new SubscriptionTables();

  copy(): MemoryTables {
    const copy = new MemoryTables();
    copyRows(this.invitations, copy.invitations);
    copyRows(this.accounts, copy.accounts);
    copyRows(this.devices, copy.devices);
    copyRows(this.tokens, copy.tokens);
    copyRows(this.records, copy.records);
    copyRows(this.uploads, copy.uploads);
    copyGroups(this.access, copy.access);
    copyGroups(this.live, copy.live);
    copyGroups(this.chunks, copy.chunks);
    copyGroups(this.disks, copy.disks);
    copy.subscriptions = this.subscriptions.copy();
    copy.nonces = this.nonces;
    Object.assign(copy.counters, this.counters);
    return copy;
  }
}

const copyRows = <K, V>(from: ReadonlyMap<K, V>, to: Map<K, V>): void => {
  for (const [key, row] of from) to.set(key, row);
};
const copyGroups = <G, K, V>(from: ReadonlyMap<G, ReadonlyMap<K, V>>, to: Map<G, Map<K, V>>): void => {
  for (const [group, rows] of from) to.set(group, new Map(rows));
};

export class MemoryCatalogue implements Catalogue {
  readonly people: People;
  readonly versions: Versions;
  readonly uploads: Uploads;
  readonly subscriptions: Subscriptions;
  #last: Promise<unknown> = Promise.resolve();

  constructor(tables = new MemoryTables()) {
    this.people = memoryPeople(tables);
    this.versions = memoryVersions(tables);
    this.uploads = memoryUploads(tables);
    this.subscriptions = memorySubscriptions(tables.subscriptions);
  }

  async exclusively<T>(step: () => Promise<T>): Promise<T> {
    const turn = this.#last.then(step);
    this.#last = turn.catch(() => undefined);
    return turn;
  }

  async close(): Promise<void> {}
}

const memoryPeople = (tables: MemoryTables): People => {
  const { invitations, accounts, access, devices, tokens } = tables;
  const accessMap = (account: string): Map<string, ApplianceAccess> => {
    const found = access.get(account) ?? new Map<string, ApplianceAccess>();
    access.set(account, found);
    return found;
  };
  const change = <K, V>(map: Map<K, V>, key: K, by: Partial<V>): void => {
    const old = map.get(key);
    if (old !== undefined) map.set(key, { ...old, ...by });
  };
  const changePassword = (name: string, password: PasswordChange): void => {
    change(accounts, name, password);
    for (const [hash, { account, scope }] of tokens) if (account === name && scope === 'enrol') tokens.delete(hash);
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
    changePassword: async (name, password) => changePassword(name, password),
    acceptReset: async (tokenHash, password) => {
      const invitation = invitations.get(tokenHash);
      if (invitation === undefined) return false;
      changePassword(invitation.account, password);
      invitations.delete(tokenHash);
      return true;
    },
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
      const same = tables.nonces.filter(({ device }) => device === nonce.device);
      const dropped = new Set(same.slice(0, Math.max(0, same.length + 1 - perDeviceMax)));
      tables.nonces = [...tables.nonces.filter((other) => !dropped.has(other)), nonce];
    },
    takeNonce: async (hash, device, now) => {
      const found = tables.nonces.find(
        (nonce) => nonce.hash === hash && nonce.device === device && nonce.expiresAt > now,
      );
      tables.nonces = tables.nonces.filter((nonce) => nonce !== found);
      return found !== undefined;
    },
    removeExpired: async (before) => {
      for (const [hash, token] of tokens) if (token.expiresAt < before) tokens.delete(hash);
      for (const [hash, invitation] of invitations) if (invitation.expiresAt < before) invitations.delete(hash);
      tables.nonces = tables.nonces.filter((nonce) => nonce.expiresAt >= before);
    },
  };
};

const memoryVersions = ({ records, live, counters }: MemoryTables): Versions => {
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
    head: async (appliance) =>
      of(appliance)
        .filter(({ state }) => state === 'live')
        .at(-1),
    lastNumber: async (appliance) => of(appliance).at(-1)?.version,
    candidates: async () =>
      [...records.values()]
        .filter(({ state }) => state === 'candidate')
        .sort((a, b) => (a.appliance === b.appliance ? a.version - b.version : a.appliance < b.appliance ? -1 : 1)),
    recordVersion: async (record) => void records.set(key(record.appliance, record.version), record),
    removeVersion: async (appliance, version) => void records.delete(key(appliance, version)),
    setVersionState: async (appliance, version, state, stateSince) => change(appliance, version, { state, stateSince }),
    setIndexed: async (appliance, version, indexed) => change(appliance, version, { indexed }),
    addLiveChunks: async (appliance, chunks) => {
      const known = live.get(appliance) ?? new Map<Digest, SizedChunk>();
      live.set(appliance, known);
      for (const chunk of chunks) if (!known.has(chunk.digest)) known.set(chunk.digest, chunk);
    },
    retainLiveChunks: async (appliance, digests) => {
      for (const digest of live.get(appliance)?.keys() ?? [])
        if (!digests.has(digest)) live.get(appliance)?.delete(digest);
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
    headsNumber: async () => counters.heads,
    takeHeadsNumber: async (after) => (counters.heads = Math.max(counters.heads, after) + 1),
    collectionNumber: async () => counters.collections,
    beginCollection: async () => {
      counters.collections += 1;
    },
  };
};

const memoryUploads = ({ uploads, chunks, disks }: MemoryTables): Uploads => {
  // As the foreign keys of the real one.
  const requireUpload = (id: string): void => {
    if (!uploads.has(id)) throw endedUpload();
  };
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
      if (digests.length > 0) requireUpload(id);
      for (const digest of digests) {
        if (!chunksOf(id).has(digest))
          chunksOf(id).set(digest, { digest, chunkBytes: 0, plainBytes: 0, durable: false });
      }
    },
    keepChunks: async (id, kept, expiresAt) => {
      if (kept.length > 0) requireUpload(id);
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
      requireUpload(id);
      const known = disks.get(id) ?? new Map<string, UploadDisk>();
      disks.set(id, known.set(disk.disk, disk));
    },
    uploadDisks: async (id) => [...(disks.get(id)?.values() ?? [])].sort((a, b) => (a.disk < b.disk ? -1 : 1)),
  };
};
