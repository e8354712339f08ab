/** `server/settings.json`: what join links are made of. Written by `init` and by `serve`, read by `invite`. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { CollectiveError, documentCodec, nullable, secretField, strictObject } from '@collective/shared';
import { type Static, Type } from 'typebox';
import { isErrno, replaceFile } from '../storage/durable-file.js';

const settingsSchema = strictObject({
  format: Type.Literal(1),
  /** Scheme, host and port under which people reach the server. */
  origin: Type.String({ pattern: '^https?://[^/#?]{1,300}$' }),
  /** The administrator gave the origin; otherwise it is where the server listened last. */
  isOriginGiven: Type.Boolean(),
  /** SHA-256 of the certificate's public key, when the certificate is not a public one. */
  pin: nullable(secretField),
});
export type Settings = Static<typeof settingsSchema>;

const codec = documentCodec(settingsSchema, { what: 'settings', bytesMax: 4_096 });

/** Errors: `not-found` when the folder holds no repository, `malformed`. */
export const readSettings = async (folder: string): Promise<Settings> => {
  try {
    return codec.decode(await readFile(settingsPath(folder)));
  } catch (error) {
    if (isErrno(error, 'ENOENT')) {
      throw new CollectiveError('not-found', `${folder} holds no repository: run collective-repository init ${folder}`);
    }
    throw error;
  }
};

export const writeSettings = async (folder: string, settings: Settings): Promise<void> => {
  await replaceFile(settingsPath(folder), codec.encode(settings), { tempFolder: join(folder, 'tmp'), mode: 0o600 });
};

/** `https://host[:port]` of a web address. Errors: `usage`. */
export const parseOrigin = (text: string): string => {
  try {
    const { protocol, origin } = new URL(text);
    if (protocol === 'http:' || protocol === 'https:') return origin;
  } catch {
    // Said below, like every other text that is no web address.
  }
  throw new CollectiveError('usage', `${text} is not a web address like https://repository.example.org:8470`);
};

const settingsPath = (folder: string): string => join(folder, 'server', 'settings.json');
