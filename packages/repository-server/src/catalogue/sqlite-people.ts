/** Accounts, invitations, access, devices, tokens and nonces in SQLite. See the seam for what each method promises. */
import { ACCESSES, type Access, type Digest, digestBytes, digestFromBytes, type Role, ROLES } from '@collective/shared';
import {
  type Account,
  type ApplianceAccess,
  type Device,
  type Invitation,
  type PasswordChange,
  type People,
  type Token,
  type TokenHolder,
} from './catalogue.js';
import { type CatalogueDatabase } from './sqlite-database.js';

type AccountRow = {
  name: string;
  role: string;
  created_at: number;
  revoked_at: number | null;
  password_parameters: string;
  login_secret_hash: Buffer;
  publishing_key: string | null;
};
type DeviceRow = {
  id: Buffer;
  account: string;
  public_key: string;
  name: string;
  created_at: number;
  last_seen_at: number | null;
  revoked_at: number | null;
  certificate: Buffer;
};
type InvitationRow = {
  token_hash: Buffer;
  account: string;
  role: string;
  appliances: string;
  created_at: number;
  expires_at: number;
};
type HolderRow = {
  account: string;
  device: Buffer | null;
  scope: string;
  expires_at: number;
  role: string;
  revoked: number;
};
type AccessRow = { appliance: string; access: string };

export const sqlitePeople = ({ full, relaxed }: CatalogueDatabase): People => {
  const insertInvitation = full.prepare('insert into invitations values (?, ?, ?, ?, ?, ?)');
  const selectInvitation = full.prepare<[Buffer], InvitationRow>('select * from invitations where token_hash = ?');
  const deleteInvitation = full.prepare('delete from invitations where token_hash = ?');
  const insertAccount = full.prepare('insert or ignore into accounts values (?, ?, ?, ?, ?, ?, ?)');
  const selectAccount = full.prepare<[string], AccountRow>('select * from accounts where name = ?');
  const selectAccounts = full.prepare<[], AccountRow>('select * from accounts order by name');
  const updateRevokedAccount = full.prepare('update accounts set revoked_at = ? where name = ? and revoked_at is null');
  const updatePublishingKey = full.prepare('update accounts set publishing_key = ? where name = ?');
  const updatePassword = full.prepare(
    'update accounts set password_parameters = ?, login_secret_hash = ? where name = ?',
  );
  const deleteEnrolTokens = full.prepare("delete from tokens where account = ? and scope = 'enrol'");
  const selectAccess = full.prepare<[string], AccessRow>(
    'select appliance, access from access where account = ? order by appliance',
  );
  const upsertAccess = full.prepare('insert or replace into access values (?, ?, ?)');
  const deleteAccess = full.prepare('delete from access where account = ? and appliance = ?');
  const insertDevice = full.prepare('insert or ignore into devices values (?, ?, ?, ?, ?, ?, ?, ?)');
  const selectDevice = full.prepare<[Buffer], DeviceRow>('select * from devices where id = ?');
  const selectDevices = full.prepare<[string], DeviceRow>(
    'select * from devices where account = ? order by created_at, id',
  );
  const updateSeen = relaxed.prepare('update devices set last_seen_at = ? where id = ?');
  const updateRevokedDevice = full.prepare('update devices set revoked_at = ? where id = ? and revoked_at is null');
  const insertToken = full.prepare('insert into tokens values (?, ?, ?, ?, ?)');
  const selectHolder = full.prepare<[Buffer], HolderRow>(`
    select t.account, t.device, t.scope, t.expires_at, a.role,
           a.revoked_at is not null or (t.device is not null and d.revoked_at is not null) as revoked
    from tokens t join accounts a on a.name = t.account left join devices d on d.id = t.device where t.hash = ?`);
  const deleteToken = full.prepare('delete from tokens where hash = ?');
  const insertNonce = relaxed.prepare('insert into nonces values (?, ?, ?)');
  const trimNonces = relaxed.prepare(`
    delete from nonces where device = ? and rowid not in
      (select rowid from nonces where device = ? order by rowid desc limit ?)`);
  const deleteNonce = relaxed.prepare('delete from nonces where hash = ? and device = ? and expires_at > ?');
  const expire = ['tokens', 'invitations', 'nonces'].map((table) =>
    relaxed.prepare(`delete from ${table} where expires_at < ?`),
  );

  const accept = full.transaction((tokenHash: Digest, account: Account): boolean => {
    const row = selectInvitation.get(digestBytes(tokenHash));
    if (row === undefined) return false;
    const made = insertAccount.run(
      account.name,
      account.role,
      account.createdAt,
      null,
      account.passwordParameters,
      digestBytes(account.loginSecretHash),
      account.publishingKey ?? null,
    );
    if (made.changes === 0) return false;
    for (const { name, access } of toInvitation(row).appliances) upsertAccess.run(account.name, name, access);
    deleteInvitation.run(digestBytes(tokenHash));
    return true;
  });
  const changePassword = full.transaction((account: string, password: PasswordChange): void => {
    updatePassword.run(password.passwordParameters, digestBytes(password.loginSecretHash), account);
    deleteEnrolTokens.run(account);
  });
  const acceptReset = full.transaction((tokenHash: Digest, password: PasswordChange): boolean => {
    const row = selectInvitation.get(digestBytes(tokenHash));
    if (row === undefined) return false;
    changePassword(row.account, password);
    deleteInvitation.run(digestBytes(tokenHash));
    return true;
  });
  const addNonce = relaxed.transaction((hash: Digest, device: Digest, expiresAt: number, perDeviceMax: number) => {
    insertNonce.run(digestBytes(hash), digestBytes(device), expiresAt);
    trimNonces.run(digestBytes(device), digestBytes(device), perDeviceMax);
  });

  return {
    addInvitation: async (invitation) => {
      const { tokenHash, account, role, appliances, createdAt, expiresAt } = invitation;
      insertInvitation.run(digestBytes(tokenHash), account, role, JSON.stringify(appliances), createdAt, expiresAt);
    },
    invitation: async (tokenHash) => {
      const row = selectInvitation.get(digestBytes(tokenHash));
      return row === undefined ? undefined : toInvitation(row);
    },
    acceptInvitation: async (tokenHash, account) => accept.immediate(tokenHash, account),
    account: async (name) => {
      const row = selectAccount.get(name);
      return row === undefined ? undefined : toAccount(row);
    },
    accounts: async () => selectAccounts.all().map(toAccount),
    revokeAccount: async (name, now) => {
      updateRevokedAccount.run(now, name);
      return selectAccount.get(name) !== undefined;
    },
    setPublishingKey: async (account, key) => {
      updatePublishingKey.run(key, account);
    },
    changePassword: async (account, password) => {
      changePassword.immediate(account, password);
    },
    acceptReset: async (tokenHash, password) => acceptReset.immediate(tokenHash, password),
    accessOf: async (account) => selectAccess.all(account).map(toAccess),
    setAccess: async (account, { name, access }) => {
      upsertAccess.run(account, name, access);
    },
    removeAccess: async (account, appliance) => deleteAccess.run(account, appliance).changes > 0,

    addDevice: async (device) => {
      const { id, account, publicKey, name, createdAt, certificate } = device;
      return (
        insertDevice.run(digestBytes(id), account, publicKey, name, createdAt, null, null, certificate).changes > 0
      );
    },
    device: async (id) => {
      const row = selectDevice.get(digestBytes(id));
      return row === undefined ? undefined : toDevice(row);
    },
    devicesOf: async (account) => selectDevices.all(account).map(toDevice),
    deviceSeen: async (id, now) => {
      updateSeen.run(now, digestBytes(id));
    },
    revokeDevice: async (id, now) => {
      updateRevokedDevice.run(now, digestBytes(id));
    },

    addToken: async ({ hash, account, device, scope, expiresAt }: Token) => {
      insertToken.run(digestBytes(hash), account, device === undefined ? null : digestBytes(device), scope, expiresAt);
    },
    tokenHolder: async (hash) => {
      const row = selectHolder.get(digestBytes(hash));
      return row === undefined ? undefined : toHolder(hash, row);
    },
    removeToken: async (hash) => {
      deleteToken.run(digestBytes(hash));
    },
    addNonce: async ({ hash, device, expiresAt }, perDeviceMax) => {
      addNonce.immediate(hash, device, expiresAt, perDeviceMax);
    },
    takeNonce: async (hash, device, now) => deleteNonce.run(digestBytes(hash), digestBytes(device), now).changes > 0,
    removeExpired: async (before) => {
      for (const statement of expire) statement.run(before);
    },
  };
};

const toAccount = (row: AccountRow): Account => ({
  name: row.name,
  role: toRole(row.role),
  createdAt: row.created_at,
  revokedAt: row.revoked_at ?? undefined,
  passwordParameters: row.password_parameters,
  loginSecretHash: digestFromBytes(row.login_secret_hash),
  publishingKey: row.publishing_key ?? undefined,
});

const toDevice = (row: DeviceRow): Device => ({
  id: digestFromBytes(row.id),
  account: row.account,
  publicKey: row.public_key,
  name: row.name,
  createdAt: row.created_at,
  lastSeenAt: row.last_seen_at ?? undefined,
  revokedAt: row.revoked_at ?? undefined,
  certificate: row.certificate,
});

const toInvitation = (row: InvitationRow): Invitation => {
  const appliances: { name: string; access: string }[] = JSON.parse(row.appliances);
  return {
    tokenHash: digestFromBytes(row.token_hash),
    account: row.account,
    role: toRole(row.role),
    appliances: appliances.map(({ name, access }) => toAccess({ appliance: name, access })),
    createdAt: row.created_at,
    expiresAt: row.expires_at,
  };
};

const toHolder = (hash: Digest, row: HolderRow): TokenHolder => ({
  hash,
  account: row.account,
  device: row.device === null ? undefined : digestFromBytes(row.device),
  scope: row.scope === 'session' ? 'session' : 'enrol',
  expiresAt: row.expires_at,
  role: toRole(row.role),
  revoked: row.revoked !== 0,
});

const toAccess = (row: AccessRow): ApplianceAccess => ({ name: row.appliance, access: toAccessWord(row.access) });

// A word that the schema does not know gives the least right, never the most.
const toRole = (text: string): Role => ROLES.find((role) => role === text) ?? 'user';
const toAccessWord = (text: string): Access => ACCESSES.find((access) => access === text) ?? 'use';
