/** HOME/settings.json: what the person has set for this machine. Without it everything is as it is by itself. */
import { Type, type Static } from '@collective/schema';
import { documentCodec, strictObject, wordField } from '@collective/shared';
import { readIfThere, writeDurably } from '../storage/durable-file.js';

const schema = strictObject({
  format: Type.Literal(1),
  /** What boots and sessions touch is told to the repository, without a name (boot-traces.ts). */
  tellTraces: Type.Boolean(),
  /** What travels over the link costs something (metered-link.ts): `auto` asks the system. Absent: as `auto`. */
  metered: Type.Optional(wordField('on', 'off', 'auto')),
});
const codec = documentCodec(schema, { what: 'settings.json', bytesMax: 65_536 });

export type Settings = Required<Omit<Static<typeof schema>, 'format'>>;
const BY_ITSELF: Settings = { tellTraces: true, metered: 'auto' };

/** Errors: `malformed`. */
export async function readSettings(path: string): Promise<Settings> {
  const bytes = await readIfThere(path);
  if (bytes === undefined) return BY_ITSELF;
  const { format: _format, ...set } = codec.decode(bytes);
  return { ...BY_ITSELF, ...set };
}

export const writeSettings = async (path: string, settings: Settings): Promise<void> =>
  writeDurably(path, codec.encode({ format: 1, ...settings }));
