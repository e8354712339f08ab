/**
 * Base files (blockd/base/base-file.ts) as the agent writes them: the committed state of one disk, over which its overlay lies. One is
 * named by its SHA-256 and lies at `<overlay>/bases/<sha256>.json`; the maps that it names are lists of changed pairs in
 * `<overlay>/maps/`, named by the SHA-256 of their bytes, so that writing one again changes nothing.
 */
import { readdir } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import {
  CollectiveError,
  DiskMap,
  decodeChangedPairs,
  encodeChangedPairs,
  sha256,
  type ChangedPairs,
  type Digest,
  type DiskShape,
} from '@collective/shared';
import { decodeBaseFile, encodeBaseFile, type BaseFile } from '../blockd/base/base-file.js';
import {
  isErrno,
  makeFolderDurably,
  readIfThere,
  removeIfThere,
  syncFolder,
  writeDurably,
} from '../storage/durable-file.js';
import { localFailure } from './local-failure.js';

/** A base file that is on the disk. */
export type NamedBase = { readonly name: Digest; readonly file: BaseFile };

/** The state in which nothing has been written: all *inherit*, or all zero without a base. */
export const initialState = (shape: DiskShape, hasBase: boolean): DiskMap =>
  DiskMap.empty(shape, hasBase ? 'inherit' : 'zero');

/** The bases and maps of one overlay folder. */
export class BaseFolder {
  readonly folder: string;

  private constructor(folder: string) {
    this.folder = folder;
  }

  static async open(folder: string): Promise<BaseFolder> {
    for (const made of ['bases', 'maps']) await makeFolderDurably(join(folder, made));
    return new BaseFolder(folder);
  }

  /** Durable when it resolves; gives its name. Errors: `disk-full`, `local-io`. */
  async putMap(pairs: ChangedPairs): Promise<Digest> {
    const bytes = encodeChangedPairs(pairs);
    return this.#put(bytes, (name) => join('maps', name));
  }

  /** Durable when it resolves. Errors: as `putMap`. */
  async putBase(file: BaseFile): Promise<NamedBase> {
    return { name: await this.#put(encodeBaseFile(file), (name) => join('bases', `${name}.json`)), file };
  }

  /** Errors: `local-io` when it is not there, `digest-mismatch`, those of the format. */
  async base(name: Digest): Promise<NamedBase> {
    return { name, file: decodeBaseFile(await this.#get(join('bases', `${name}.json`), name)) };
  }

  /** The committed state, checked against its root. Errors: as `base`; `digest-mismatch` when the maps lead elsewhere. */
  async state(file: BaseFile): Promise<DiskMap> {
    const map = initialState(file, file.base !== null);
    for (const name of file.maps) {
      const pairs = decodeChangedPairs(await this.#get(join('maps', name), name));
      if (pairs.diskBytes !== file.diskBytes) throw damaged(`the map ${name} is of a disk of another size`);
      map.apply(pairs);
    }
    const { root } = map.build();
    if (root === file.root) return map;
    throw new CollectiveError('digest-mismatch', `${this.folder}: the maps lead to ${root}, not to ${file.root}`);
  }

  /** The initial user disk's map. Errors: as `state`. */
  async baseMap({ base, ...shape }: BaseFile): Promise<DiskMap | undefined> {
    return base === null ? undefined : this.publicMap(base.map, { ...shape, root: base.root });
  }

  async publicMap(name: Digest, disk: DiskShape & { readonly root: Digest }): Promise<DiskMap> {
    const map = DiskMap.empty(disk).apply(decodeChangedPairs(await this.#get(join('maps', name), name)));
    if (map.diskBytes === disk.diskBytes && map.build().root === disk.root) return map;
    throw new CollectiveError('digest-mismatch', `${this.folder}: the map ${name} does not lead to ${disk.root}`);
  }

  /** Removes what none of these names. */
  async keepOnly(bases: ReadonlySet<Digest>, maps: ReadonlySet<Digest>): Promise<void> {
    const wanted = new Set<string>(maps);
    for (const name of bases) {
      const { file } = await this.base(name);
      for (const map of file.maps) wanted.add(map);
      if (file.base !== null) wanted.add(file.base.map);
    }
    for (const file of await filesIn(join(this.folder, 'bases')))
      if (!bases.has(file.replace(/\.json$/, '') as Digest)) await removeIfThere(join(this.folder, 'bases', file));
    for (const file of await filesIn(join(this.folder, 'maps')))
      if (!wanted.has(file)) await removeIfThere(join(this.folder, 'maps', file));
  }

  async #put(bytes: Buffer, pathOf: (name: Digest) => string): Promise<Digest> {
    const name = sha256(bytes);
    const path = join(this.folder, pathOf(name));
    try {
      const held = await readIfThere(path);
      if (held === undefined || sha256(held) !== name) await writeDurably(path, bytes);
      // What is there whole was renamed into place after its bytes were durable; whoever did that may have been killed before the folder was.
      else await syncFolder(dirname(path));
    } catch (error) {
      throw localFailure(error, path);
    }
    return name;
  }

  async #get(path: string, name: Digest): Promise<Buffer> {
    const bytes = await readIfThere(join(this.folder, path));
    if (bytes === undefined) throw new CollectiveError('local-io', `${join(this.folder, path)} is not there`);
    if (sha256(bytes) === name) return bytes;
    throw new CollectiveError('digest-mismatch', `${join(this.folder, path)} does not have the content of its name`);
  }
}

const filesIn = async (folder: string): Promise<string[]> =>
  readdir(folder).catch((error: unknown) => {
    if (isErrno(error, 'ENOENT')) return [];
    throw error;
  });

const damaged = (what: string): CollectiveError => new CollectiveError('malformed', `base file: ${what}`);
