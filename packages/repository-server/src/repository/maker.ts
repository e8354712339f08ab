/**
 * Who may go on publishing a new appliance: the account that committed its first version, signed with its own key. (Others may know the bytes of
 * such a manifest.) The access comes before the first row of the appliance: with a row and without the access, its maker would be told that there
 * is no such appliance. It is given once: what an administrator has taken away since stays away, whatever is asked again.
 */
import { countValidSignatures, type Envelope } from '@collective/shared';
import { type Catalogue, type Upload } from '../catalogue/catalogue.js';

export const grantToMaker = async ({ people }: Catalogue, upload: Upload, envelope: Envelope): Promise<void> => {
  const account = await people.account(upload.account);
  if (account === undefined || account.revokedAt !== undefined || account.role !== 'publisher') return;
  if (upload.parent !== undefined || account.publishingKey === undefined) return;
  if (countValidSignatures(envelope, [account.publishingKey]).length === 0) return;
  await people.setAccess(account.name, { name: upload.appliance, access: 'publish' });
};

/**
 * After a crash, for the manifest of an appliance that has no row yet: by the uploads that are still open. A catalogue that is older than the
 * appliance (from a backup) has none of them, and what was decided since is not undone: an administrator says who may publish it.
 */
export const grantToMakerAfterCrash = async (
  catalogue: Catalogue,
  appliance: string,
  envelope: Envelope,
): Promise<void> => {
  for (const upload of await catalogue.uploads.openUploads())
    if (upload.appliance === appliance) await grantToMaker(catalogue, upload, envelope);
};
