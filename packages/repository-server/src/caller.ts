/** Who asks: the account behind a bearer token, and what it may do with an appliance. */
import { type Access, CollectiveError, type Digest, type Role, type RouteAuth, sha256 } from '@collective/shared';
import { type ApplianceAccess, type TokenScope } from './catalogue/catalogue.js';
import { type Repository } from './repository/repository.js';

export type Caller = {
  readonly account: string;
  readonly role: Role;
  readonly scope: TokenScope;
  readonly device: Digest | undefined;
  readonly tokenHash: Digest;
};

const BEARER = /^Bearer ([A-Za-z0-9_-]{43})$/i;

/** The hash under which the server keeps a token, nonce, invitation or login secret (base64url text, 32 bytes). */
export const secretHash = (secret: string): Digest => sha256(Buffer.from(secret, 'base64url'));

/**
 * The caller of a request, by its Authorization header. Errors: `not-logged-in` for no or an unknown token,
 * `token-expired`, `revoked` and `device-revoked` for the token of a revoked account or device, `not-allowed` for an `enrol` token where a
 * session is wanted.
 */
export const identifyCaller = async (
  repository: Repository,
  authorization: string | undefined,
  auth: Exclude<RouteAuth, 'none'>,
): Promise<Caller> => {
  const token = BEARER.exec(authorization ?? '')?.[1];
  if (token === undefined) throw new CollectiveError('not-logged-in', 'This needs a token: Authorization: Bearer …');
  const tokenHash = secretHash(token);
  const holder = await repository.catalogue.people.tokenHolder(tokenHash);
  if (holder === undefined) throw new CollectiveError('not-logged-in');
  if (holder.revoked) {
    const holders = await repository.catalogue.people.account(holder.account);
    throw new CollectiveError(holders?.revokedAt === undefined ? 'device-revoked' : 'revoked');
  }
  if (holder.expiresAt <= repository.clock.nowSeconds()) throw new CollectiveError('token-expired');
  if (auth === 'session' && holder.scope !== 'session') {
    throw new CollectiveError('not-allowed', 'A password login may only register a device; log in with the device.');
  }
  const { account, role, scope, device } = holder;
  return { account, role, scope, device, tokenHash };
};

/** What the caller may do with the appliance; an admin everything. */
export const accessTo = async (
  repository: Repository,
  caller: Caller,
  appliance: string,
): Promise<Access | undefined> => {
  if (caller.role === 'admin') return 'publish';
  const all = await repository.catalogue.people.accessOf(caller.account);
  const access = all.find(({ name }) => name === appliance)?.access;
  return access === 'publish' && caller.role !== 'publisher' ? 'use' : access;
};

/** Errors: `not-found` without any access, whether the appliance exists or not. */
export const requireUse = async (repository: Repository, caller: Caller, appliance: string): Promise<Access> => {
  const access = await accessTo(repository, caller, appliance);
  if (access === undefined)
    throw new CollectiveError('not-found', `There is no appliance ${appliance} that you may use`);
  return access;
};

/** Errors: `not-found` without any access, `not-allowed` for somebody who may only use it. */
export const requirePublish = async (repository: Repository, caller: Caller, appliance: string): Promise<void> => {
  if ((await requireUse(repository, caller, appliance)) !== 'publish') {
    throw new CollectiveError('not-allowed', `${caller.account} may use ${appliance}, but not publish it`);
  }
};

/** Names of the appliances that the caller may read; undefined: all. */
export const readableAppliances = async (repository: Repository, caller: Caller): Promise<string[] | undefined> =>
  caller.role === 'admin' ? undefined : (await listAccess(repository, caller)).map(({ name }) => name);

export const listAccess = async (repository: Repository, caller: Caller): Promise<ApplianceAccess[]> => {
  if (caller.role !== 'admin') return repository.catalogue.people.accessOf(caller.account);
  const names = await repository.catalogue.versions.appliances();
  return names.map((name) => ({ name, access: 'publish' }));
};
