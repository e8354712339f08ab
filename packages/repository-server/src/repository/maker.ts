/**
 * Whoever makes a new appliance may go on publishing it. The access comes before the first row of the appliance: with a
 * row and without the access, its maker would be told that there is no such appliance.
 */
import { countValidSignatures, type Envelope } from '@collective/shared';
import { type Catalogue, type Upload } from '../catalogue/catalogue.js';

export const grantToMaker = async ({ people }: Catalogue, upload: Upload): Promise<void> => {
  const account = await people.account(upload.account);
  if (upload.parent !== undefined || account?.role === 'admin') return;
  await people.setAccess(upload.account, { name: upload.appliance, access: 'publish' });
};

/**
 * After a crash, for the manifest of an appliance that has no row yet: which upload it came from is not known any more, but
 * only its publisher can have signed it.
 */
export const grantToSigner = async ({ people }: Catalogue, appliance: string, envelope: Envelope): Promise<void> => {
  for (const { name, role, publishingKey, revokedAt } of await people.accounts()) {
    if (role !== 'publisher' || revokedAt !== undefined || publishingKey === undefined) continue;
    if (countValidSignatures(envelope, [publishingKey]).length === 0) continue;
    await people.setAccess(name, { name: appliance, access: 'publish' });
  }
};
