/** HOME/settings.json: what the person has set for this machine. Without it everything is as it is by itself. */
import { Type, type Static } from '@collective/schema';
import { documentCodec, strictObject } from '@collective/shared';
import { readIfThere, writeDurably } from '../storage/durable-file.js';

const schema = strictObject({
  format: Type.Literal(1),
  /** What boots touch is told to the repository, without a name (boot-traces.ts). */
  tellTraces: Type.Boolean(),
});
const codec = documentCodec(schema, { what: 'settings.json', bytesMax: 65_536 });

export type Settings = Omit<Static<typeof schema>, 'format'>;
const BY_ITSELF: Settings = { tellTraces: true };

/** Errors: `malformed`. */
export async function readSettings(path: string): Promise<Settings> {
  const bytes = await readIfThere(path);
  return bytes === undefined ? BY_ITSELF : codec.decode(bytes);
}

export const writeSettings = async (path: string, settings: Settings): Promise<void> =>
  writeDurably(path, codec.encode({ format: 1, ...settings }));
