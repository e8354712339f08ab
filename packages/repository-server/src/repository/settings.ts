/** `server/settings.json`: what join links are made of. Written by `init` and by `serve`, read by `invite`. */
import { join } from 'node:path';
import { CollectiveError, documentCodec, nullable, secretField, strictObject } from '@collective/shared';
import { type Static, Type } from '@collective/schema';
import { type DurableFiles } from '../storage/durable-file.js';
import { type FileSystem } from '../storage/file-system.js';

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
export const readSettings = async (fileSystem: FileSystem, folder: string): Promise<Settings> => {
  const bytes = await fileSystem.read(settingsPath(folder));
  if (bytes !== undefined) return codec.decode(bytes);
  throw new CollectiveError('not-found', `${folder} holds no repository: run collective-repository init ${folder}`);
};

export const writeSettings = async (files: DurableFiles, folder: string, settings: Settings): Promise<void> => {
  await files.replace(settingsPath(folder), codec.encode(settings), { mode: 0o600 });
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
