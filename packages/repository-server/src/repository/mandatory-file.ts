/**
 * `mandatory.json`: which versions an administrator has made mandatory, one an appliance. Heads carry the marks to the
 * clients. It is changed under the lock.
 */
import { type Static, Type } from '@collective/schema';
import { CollectiveError, documentCodec, MANDATORY_MAX, mandatorySchema, strictObject } from '@collective/shared';
import { type MandatoryMark } from '@collective/shared';
import { MANDATORY } from '../storage/blob-names.js';
import { type BlobStore } from '../storage/blob-store.js';
import { type Repository } from './repository.js';

const schema = strictObject({
  format: Type.Literal(1),
  marks: Type.Array(mandatorySchema, { maxItems: MANDATORY_MAX }),
});
const codec = documentCodec<typeof schema>(schema, { what: 'mandatory.json', bytesMax: 65_536 });
type MandatoryFile = Static<typeof schema>;

/** Sorted by appliance. A damaged file is an error, never "nothing is mandatory". Errors: `malformed`. */
export const readMandatory = async (blobStore: BlobStore): Promise<MandatoryFile['marks']> => {
  const bytes = await blobStore.read(MANDATORY);
  return bytes === undefined ? [] : codec.decode(bytes).marks;
};

/** Errors: `bad-request` when the version is not for all (yet), `too-large` with 100 marks already. */
export const setMandatory = async (repository: Repository, mark: MandatoryMark): Promise<void> => {
  const { catalogue } = repository;
  const { appliance, version } = mark;
  await change(repository, async (others) => {
    const head = await catalogue.versions.head(appliance);
    if (head === undefined || version > head.version) {
      const newest = head === undefined ? 'it has no version for all' : `its newest is ${head.version}`;
      throw new CollectiveError('bad-request', `${appliance}@${version} cannot be mandatory: ${newest}`);
    }
    if (others.length >= MANDATORY_MAX)
      throw new CollectiveError('too-large', `${others.length} appliances have a mandatory version, which is the most`);
    return [...others, mark];
  })(appliance);
};

/** Nothing of the appliance is mandatory any more. Errors: `not-found` when nothing was. */
export const removeMandatory = async (repository: Repository, appliance: string): Promise<void> => {
  await change(repository, async (others, before) => {
    if (others.length === before.length)
      throw new CollectiveError('not-found', `No version of ${appliance} is mandatory`);
    return others;
  })(appliance);
};

type Marks = MandatoryFile['marks'];

/** Under the lock; the heads say it when it resolves. `others`: those of other appliances. */
const change =
  (
    { catalogue, blobStore, heads }: Repository,
    by: (others: Marks, before: Marks) => Promise<Marks>,
  ): ((appliance: string) => Promise<void>) =>
  async (appliance) => {
    await catalogue.exclusively(async () => {
      const before = await readMandatory(blobStore);
      const others = before.filter((mark) => mark.appliance !== appliance);
      const marks = (await by(others, before)).sort((a, b) => (a.appliance < b.appliance ? -1 : 1));
      await blobStore.replace(MANDATORY, codec.encode({ format: 1, marks }));
      await heads.signIfNeeded();
    });
  };
