/** What a running server does from time to time: heads before they expire, dead sessions, tokens and invitations. */
import { type Repository } from './repository/repository.js';

/** Expired tokens are kept so long, so that their owner learns `token-expired` and not `not-logged-in`. */
const KEEP_EXPIRED_SECONDS = 86_400;

export const housekeeping = async (repository: Repository): Promise<void> => {
  const { catalogue, clock, heads } = repository;
  const now = clock.nowSeconds();
  await catalogue.people.removeExpired(now - KEEP_EXPIRED_SECONDS);
  await catalogue.uploads.removeEnded(now);
  await catalogue.subscriptions.removeEndedSnapshotUploads(now);
  await heads.refresh();
};
