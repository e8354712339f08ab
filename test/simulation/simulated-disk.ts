/**
 * A disk as POSIX promises it and no better: it keeps what was written (the page cache) and what was synced (the medium)
 * apart. `crash` is kill -9 of every process: the page cache stays. `powerCut` leaves any legal remainder: of each page of 4 KiB
 * and of each length one of the values since the file's last sync (a page maybe torn between sectors of 512 bytes), of
 * each folder's name operations any subset that keeps their order per name, in a new boot.
 *
 * Programs use it through a SimulatedProcess, which dies with `kill`, `crash` and `powerCut`: every later call of it throws. All
 * calls are synchronous; adapters (SimulatedFileSystem and the server's) make them late.
 *
 * What it does not do: owners, modes, symbolic links, times that survive a cut. A file's `fsync` does not make its name
 * durable (on ext4 it often does), so a program that leans on that is caught.
 */
import { Random } from './random.js';
import { PAGE_BYTES, SimulatedFile } from './simulated-disk-file.js';
import { cutNames, SimulatedFolder, type Node } from './simulated-disk-names.js';
import { DiskError, SimulatedProcess, type DiskCall } from './simulated-disk-process.js';

export { DiskError, SimulatedProcess, type DiskCall, type DiskStat } from './simulated-disk-process.js';
export type { SimulatedHandle } from './simulated-disk-process.js';

export type SimulatedDiskOptions = {
  /** For failing syncs. */
  readonly random?: Random;
  /** Space for file contents; more is ENOSPC. */
  readonly capacityBytes?: number;
  /** How often a power cut tears a page that was being written between its sectors. */
  readonly tornPageProbability?: number;
  readonly nowMs?: () => number;
};

export class SimulatedDisk {
  capacityBytes: number;
  /** Asked before every call of that kind; what it returns (`EIO`, `ENOSPC`) is thrown. A sync that fails so loses pages. It may crash the disk. */
  fault: ((call: DiskCall, path: string) => string | undefined) | undefined;
  readonly random: Random;
  readonly #tornPageProbability: number;
  readonly #nowMs: () => number;
  readonly #root = new SimulatedFolder(1);
  readonly #space: { readonly takePage: () => void; readonly freePages: (count: number) => void };
  readonly #processes = new Set<SimulatedProcess>();
  #usedPages = 0;
  #lastInode = 1;
  #boots = 1;

  constructor(options: SimulatedDiskOptions = {}) {
    this.random = options.random ?? new Random(1);
    this.capacityBytes = options.capacityBytes ?? Number.MAX_SAFE_INTEGER;
    this.#tornPageProbability = options.tornPageProbability ?? 0.2;
    this.#nowMs = options.nowMs ?? ((): number => 0);
    this.#space = {
      takePage: () => {
        if ((this.#usedPages + 1) * PAGE_BYTES > this.capacityBytes) throw new DiskError('ENOSPC', 'the disk');
        this.#usedPages += 1;
      },
      freePages: (count) => (this.#usedPages -= count),
    };
  }

  get bootId(): string {
    return `boot-${this.#boots}`;
  }

  get usedBytes(): number {
    return this.#usedPages * PAGE_BYTES;
  }

  newProcess(): SimulatedProcess {
    const process: SimulatedProcess = new SimulatedProcess(this, () => this.#processes.delete(process));
    this.#processes.add(process);
    return process;
  }

  /** kill -9 of every process. */
  crash(): void {
    for (const process of [...this.#processes]) process.kill();
  }

  /** The machine loses power and is started again. */
  powerCut(random: Random = this.random): void {
    this.crash();
    cutNames(this.#root, random);
    this.#usedPages = 0;
    const seen = new Set<SimulatedFile>();
    this.#forEachFile(this.#root, (file) => {
      file.links = seen.has(file) ? file.links + 1 : 1;
      if (seen.has(file)) return;
      seen.add(file);
      file.cut(random, this.#tornPageProbability);
      this.#usedPages += file.allocatedPages;
    });
    this.#boots += 1;
  }

  /** The medium rots: `bytes` stand there from now on. Pages in memory hide it until `dropPages`. */
  corrupt(path: string, byteOffset: number, bytes: Uint8Array): void {
    this.fileAt(path).corrupt(byteOffset, bytes);
  }

  /** Flips one bit on the medium. */
  flipBit(path: string, byteOffset: number, bit: number): void {
    const byte = this.fileAt(path).mediumBytes()[byteOffset] ?? 0;
    this.corrupt(path, byteOffset, Uint8Array.of(byte ^ (1 << bit)));
  }

  /** The file is cut short on the medium and in memory, as a repaired file system may have it. */
  truncateAtRest(path: string, byteLength: number): void {
    const file = this.fileAt(path);
    file.setByteLength(byteLength);
    file.sync();
  }

  /** Clean pages of one file, or of all, leave the memory. */
  dropPages(path?: string): void {
    if (path === undefined) this.#forEachFile(this.#root, (file) => file.dropPages());
    else this.fileAt(path).dropPages();
  }

  /** Every path with what it is, for messages and for what a test wants to find. Files with their length. */
  tree(): ReadonlyMap<string, number | 'folder'> {
    const paths = new Map<string, number | 'folder'>();
    const visit = (folder: SimulatedFolder, prefix: string): void => {
      for (const [name, node] of folder.entries) {
        paths.set(`${prefix}/${name}`, node.kind === 'folder' ? 'folder' : node.byteLength);
        if (node.kind === 'folder') visit(node, `${prefix}/${name}`);
      }
    };
    visit(this.#root, '');
    return paths;
  }

  fileAt(path: string): SimulatedFile {
    const node = this.nodeAt(path);
    if (node === undefined) throw new DiskError('ENOENT', path);
    if (node.kind === 'folder') throw new DiskError('EISDIR', path);
    return node;
  }

  folderAt(path: string): SimulatedFolder {
    const node = this.nodeAt(path);
    if (node === undefined) throw new DiskError('ENOENT', path);
    if (node.kind === 'file') throw new DiskError('ENOTDIR', path);
    return node;
  }

  nodeAt(path: string): Node | undefined {
    let node: Node = this.#root;
    for (const name of partsOf(path)) {
      if (node.kind === 'file') throw new DiskError('ENOTDIR', path);
      const next: Node | undefined = node.entries.get(name);
      if (next === undefined) return undefined;
      node = next;
    }
    return node;
  }

  /** The folder that holds the path's last name, and that name. */
  placeOf(path: string): { readonly folder: SimulatedFolder; readonly name: string } {
    const at = path.lastIndexOf('/');
    return { folder: this.folderAt(path.slice(0, at)), name: path.slice(at + 1) };
  }

  newFile(): SimulatedFile {
    return new SimulatedFile((this.#lastInode += 1), this.#nowMs(), this.#space);
  }

  newFolder(): SimulatedFolder {
    return new SimulatedFolder((this.#lastInode += 1));
  }

  nowMs(): number {
    return this.#nowMs();
  }

  /** A file that has neither a name nor a holder is gone, unless a cut brings back its name. */
  release(file: SimulatedFile): void {
    if (file.links === 0 && file.opens === 0) this.#usedPages -= file.allocatedPages;
  }

  #forEachFile(folder: SimulatedFolder, visit: (file: SimulatedFile) => void): void {
    for (const node of folder.entries.values()) {
      if (node.kind === 'file') visit(node);
      else this.#forEachFile(node, visit);
    }
  }
}

const partsOf = (path: string): string[] => path.split('/').filter((part) => part !== '');
