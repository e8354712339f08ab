/**
 * The upload session of a publish, kept in HOME/uploads/NAME.json so that the next attempt continues it after a kill -9 of
 * either side: the server still has the chunks that were stored, and is asked again which it lacks.
 */
import { join } from 'node:path';
import { Type } from '@collective/schema';
import {
  DIGEST_BYTES,
  digestField,
  documentCodec,
  hasCode,
  nameField,
  nullable,
  numberField,
  strictObject,
  uploadField,
  type Digest,
} from '@collective/shared';
import { readIfThere, removeIfThere, writeDurably } from '../storage/durable-file.js';
import type { RepositoryClient } from '../repository/repository-client.js';

const schema = strictObject({
  format: Type.Literal(1),
  repository: digestField,
  appliance: nameField,
  parent: nullable(numberField),
  upload: uploadField,
});
const codec = documentCodec(schema, { what: 'upload session', bytesMax: 4_096 });

export type OpenUpload = {
  readonly upload: string;
  /** The lowest number that its version may take, as the repository says. */
  readonly nextVersion: number;
  readonly isContinued: boolean;
  readonly forget: () => Promise<void>;
};

/** Continues the session of an earlier attempt when it still lives; else begins one. Errors: `conflict`, `not-allowed`. */
export async function openUpload(
  wanted: { readonly repository: Digest; readonly appliance: string; readonly parent: number | null },
  options: {
    readonly uploadsDirectory: string;
    readonly client: Pick<RepositoryClient, 'call'>;
    readonly signal: AbortSignal;
  },
): Promise<OpenUpload> {
  const { client, signal } = options;
  const path = join(options.uploadsDirectory, `${wanted.appliance}.json`);
  const forget = async (): Promise<void> => removeIfThere(path);
  const held = await readHeld(path);
  if (held !== undefined) {
    // A session of another repository is not this server's business; it will expire there.
    const state =
      held.repository !== wanted.repository
        ? undefined
        : await client.call('upload', { params: { upload: held.upload }, signal }).catch((error: unknown) => {
            if (hasCode(error, 'not-found') || hasCode(error, 'not-allowed')) return undefined;
            throw error;
          });
    if (
      state?.appliance === wanted.appliance &&
      (await canContinue(held.upload, state.parent, wanted.parent, options))
    ) {
      return { upload: held.upload, nextVersion: state.nextVersion, isContinued: true, forget };
    }
    if (state !== undefined)
      await client.call('abandonUpload', { params: { upload: held.upload }, signal }).catch(() => undefined);
    await forget();
  }
  const { upload, nextVersion } = await client.call('createUpload', {
    params: { name: wanted.appliance },
    body: { parent: wanted.parent },
    signal,
  });
  await writeDurably(path, codec.encode({ format: 1, ...wanted, upload }));
  return { upload, nextVersion, isContinued: false, forget };
}

/**
 * A session of an earlier head still holds its chunks and may be committed on the new one: nothing is sent twice after a
 * conflict. But not one that began as a new appliance, nor one that has become a version already (the answer got lost).
 */
async function canContinue(
  upload: string,
  before: number | null,
  now: number | null,
  { client, signal }: { readonly client: Pick<RepositoryClient, 'call'>; readonly signal: AbortSignal },
): Promise<boolean> {
  if (before === now) return true;
  if (before === null || now === null) return false;
  try {
    await client.call('lackingChunks', { params: { upload }, body: Buffer.alloc(DIGEST_BYTES), signal });
    return true;
  } catch (error) {
    if (hasCode(error, 'conflict')) return false;
    throw error;
  }
}

async function readHeld(path: string): Promise<ReturnType<typeof codec.decode> | undefined> {
  const bytes = await readIfThere(path);
  if (bytes === undefined) return undefined;
  try {
    return codec.decode(bytes);
  } catch {
    // Another program's, or torn: an upload can always begin anew.
    return undefined;
  }
}
