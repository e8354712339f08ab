/** A key and a certificate that it signs itself, as PEM files `NAME.key` and `NAME.crt` in the folder. */
import path from 'node:path';
import { runOrThrow } from './child.js';

export type CertificateFiles = { readonly certificate: string; readonly key: string };

export const selfSigned = async (folder: string, name: string): Promise<CertificateFiles> => {
  const files = { certificate: path.join(folder, `${name}.crt`), key: path.join(folder, `${name}.key`) };
  const kind = ['-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '1'];
  const where = ['-subj', '/CN=repository', '-keyout', files.key, '-out', files.certificate];
  await runOrThrow('openssl', ['req', ...kind, ...where]);
  return files;
};
