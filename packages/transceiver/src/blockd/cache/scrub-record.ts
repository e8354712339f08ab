/**
 * What is remembered of scrubs, in `cache/scrub.json`: the setting, the last whole pass, where an interrupted one stopped, and
 * whether blockd ended cleanly. A record that cannot be read is a new one: it only decides when the medium is looked at.
 */
import { Type, type Static, Compile } from '@collective/schema';
import { replaceFileDurably, type FileSystem } from '../../storage/file-system.js';
import { SCRUB_EVERY_DAYS } from './scrub-plan.js';

export const SCRUB_RECORD_NAME = 'scrub.json';
const RECORD_BYTES_MAX = 4096;

const count = Type.Integer({ minimum: 0, maximum: Number.MAX_SAFE_INTEGER });
const strict = { additionalProperties: false } as const;
const passFields = { startedAt: count, blocks: count, bytes: count, damaged: count, isAsked: Type.Boolean() };
const recordSchema = Type.Object(
  {
    format: Type.Literal(1),
    everyDays: Type.Integer({ minimum: 0, maximum: 3650 }),
    isClean: Type.Boolean(),
    /** When counting to the next pass began, while there was none. */
    since: count,
    pass: Type.Union([
      Type.Null(),
      Type.Object({ ...passFields, at: Type.Object({ blockBytes: count, slot: count }, strict) }, strict),
    ]),
    last: Type.Union([Type.Null(), Type.Object({ ...passFields, finishedAt: count }, strict)]),
  },
  strict,
);

/** Times are seconds since 1970. `pass`: one that has not come to its end. */
export type ScrubRecord = Static<typeof recordSchema>;

const check = Compile(recordSchema);

export const newScrubRecord = (nowS: number): ScrubRecord => ({
  format: 1,
  everyDays: SCRUB_EVERY_DAYS,
  isClean: true,
  since: nowS,
  pass: null,
  last: null,
});

export const readScrubRecord = async (fileSystem: FileSystem, folder: string): Promise<ScrubRecord | undefined> => {
  try {
    const bytes = await fileSystem.readWhole(`${folder}/${SCRUB_RECORD_NAME}`, RECORD_BYTES_MAX);
    const value: unknown = bytes === undefined ? undefined : JSON.parse(bytes.toString('utf8'));
    return check.Check(value) ? value : undefined;
  } catch {
    return undefined;
  }
};

/** Durable when it resolves, so that a power cut is seen by its `isClean: false`. Errors: `disk-full`, `local-io`. */
export const writeScrubRecord = (fileSystem: FileSystem, folder: string, record: ScrubRecord): Promise<void> =>
  replaceFileDurably(fileSystem, { folder, name: SCRUB_RECORD_NAME }, Buffer.from(`${JSON.stringify(record)}\n`));
