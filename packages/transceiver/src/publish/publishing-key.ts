/**
 * The person's publishing key. It is registered with the account at each login of a publisher, so that an administrator
 * can allow it; what it may publish says the trust file alone.
 */
import {
  CollectiveError,
  derivePersonKeys,
  publisherKeys,
  publishingKeyMessage,
  type SigningKey,
} from '@collective/shared';
import type { Session } from '../agent/session.js';

/** Tells the repository which key this account publishes with, with a proof that the account has it. Idempotent. */
export async function registerPublishingKey(session: Session, signal?: AbortSignal): Promise<void> {
  const { account } = session.keys;
  const key = publishingKeyOf(session);
  const message = publishingKeyMessage({ identity: session.device.repository.identity, account });
  const body = { key: key.publicKey, proof: key.sign(message).toString('base64url') };
  await session.client.call('setPublishingKey', { body, ...(signal === undefined ? {} : { signal }) });
}

/** The key, if the newest trust file allows it to publish the appliance. Errors: `not-allowed`, with what the administrator must run. */
export async function allowedPublishingKey(session: Session, name: string, signal: AbortSignal): Promise<SigningKey> {
  const key = publishingKeyOf(session);
  if (publisherKeys(session.trust.trust, name).includes(key.publicKey)) return key;
  await registerPublishingKey(session, signal);
  const { account } = session.keys;
  throw new CollectiveError(
    'not-allowed',
    `Your publishing key is registered, but may not publish ${name} yet. On the repository's machine the administrator runs: collective-repository trust allow DIR ${account} ${name}`,
    { data: { account, appliance: name, key: key.publicKey } },
  );
}

const publishingKeyOf = (session: Session): SigningKey => derivePersonKeys(session.keys.personSecret).publishing(0);
