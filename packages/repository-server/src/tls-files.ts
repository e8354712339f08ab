/** The server's certificate and key, and the pin that join links carry when nobody else vouches for the certificate. */
import { createHash, X509Certificate } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { CollectiveError } from '@collective/shared';

export type TlsFiles = {
  /** PEM. */
  readonly certificate: string;
  readonly key: string;
  readonly pin: string | null;
};

/** Errors: `usage` when a file cannot be read or is none. */
export const readTls = async (paths: { readonly certificate: string; readonly key: string }): Promise<TlsFiles> => ({
  certificate: await readPem(paths.certificate),
  key: await readPem(paths.key),
  pin: await certificatePin(paths.certificate),
});

/** SHA-256 of the public key (SubjectPublicKeyInfo), base64url, if the certificate signed itself; else null. */
export const certificatePin = async (path: string): Promise<string | null> => {
  const pem = await readPem(path);
  try {
    const certificate = new X509Certificate(pem);
    if (!certificate.checkIssued(certificate)) return null;
    const spki = certificate.publicKey.export({ type: 'spki', format: 'der' });
    return createHash('sha256').update(spki).digest('base64url');
  } catch (error) {
    throw new CollectiveError('usage', `${path} is not a PEM certificate`, { cause: error });
  }
};

const readPem = async (path: string): Promise<string> => {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new CollectiveError('usage', `${path} cannot be read: ${reason}`, { cause: error });
  }
};
