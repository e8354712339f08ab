/**
 * Join link (docs/formats/trust.md): what an administrator hands out, and the only source of a repository's identity.
 *
 *   https://HOST[:PORT]/#v1.IDENTITY[.tls.PIN][.invite.TOKEN]
 */
import { type Digest } from './brands.js';
import { digestBytes, digestFromBytes } from './digest.js';
import { CollectiveError } from './errors.js';

export type JoinLink = {
  /** Scheme, host and port, without a slash at the end. */
  readonly origin: string;
  /** SHA-256 of the file trust/1. */
  readonly identity: Digest;
  /** SHA-256 of the server's public key (SubjectPublicKeyInfo), base64url; absent when its certificate is public. */
  readonly pin?: string;
  /** One-time invitation, base64url. */
  readonly invite?: string;
};

const VALUE = '[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]';
const FRAGMENT = new RegExp(`^#v1\\.(${VALUE})(?:\\.tls\\.(${VALUE}))?(?:\\.invite\\.(${VALUE}))?$`);
const LOOPBACK = /^(?:localhost|127(?:\.\d{1,3}){3}|\[::1\])$/;
const LINK_CHARACTERS_MAX = 1_000;

export const formatJoinLink = (link: JoinLink): string =>
  [
    `${link.origin}/#v1.${digestBytes(link.identity).toString('base64url')}`,
    link.pin === undefined ? '' : `.tls.${link.pin}`,
    link.invite === undefined ? '' : `.invite.${link.invite}`,
  ].join('');

/** Errors: `usage`, also for http:// to a host that is not loopback. */
export const parseJoinLink = (text: string): JoinLink => {
  const url = parseUrl(text.trim());
  const isLoopbackHttp = url.protocol === 'http:' && LOOPBACK.test(url.hostname);
  if (url.protocol !== 'https:' && !isLoopbackHttp) throw usage('it must begin with https://');
  if (url.pathname !== '/' || url.search !== '' || url.username !== '' || url.password !== '') {
    throw usage('only a host may stand before #');
  }
  const [, identity, pin, invite] = FRAGMENT.exec(url.hash) ?? [];
  if (identity === undefined) throw usage('what follows # is not complete');
  return {
    origin: url.origin,
    identity: digestFromBytes(Buffer.from(identity, 'base64url')),
    ...(pin === undefined ? {} : { pin }),
    ...(invite === undefined ? {} : { invite }),
  };
};

const parseUrl = (text: string): URL => {
  if (text.length > LINK_CHARACTERS_MAX) throw usage('it is too long');
  // The URL parser drops control characters silently, so two texts would be one link.
  if (!/^[\u0021-\u007e]*$/.test(text)) throw usage('it holds other characters than a link can');
  try {
    return new URL(text);
  } catch (error) {
    throw usage('it is not a web address', error);
  }
};

const usage = (message: string, cause?: unknown): CollectiveError =>
  new CollectiveError('usage', `This is not a join link: ${message}.`, { cause });
