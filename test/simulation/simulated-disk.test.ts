/** What a crash and a power cut of the simulated disk may do and may not do: small cases, cut until no new outcome comes. */
import { describe, expect, it } from 'vitest';
import { Random } from './random.js';
import { DiskError, SimulatedDisk, type SimulatedProcess } from './simulated-disk.js';

const CUTS = 400;

/** Every outcome of cutting the power after `history`, as `describe` words it, sorted. */
const outcomes = (
  history: (process: SimulatedProcess, disk: SimulatedDisk) => void,
  describeOutcome: (process: SimulatedProcess, disk: SimulatedDisk) => string,
  tornPageProbability = 0,
): string[] => {
  const seen = new Set<string>();
  for (let seed = 1; seed <= CUTS; seed += 1) {
    const disk = new SimulatedDisk({ random: new Random(seed), tornPageProbability });
    history(disk.newProcess(), disk);
    disk.powerCut();
    const process = disk.newProcess();
    seen.add(describeOutcome(process, disk));
    // What a cut left is on the medium: the next one changes nothing.
    const after = describeOutcome(disk.newProcess(), disk);
    disk.powerCut();
    expect(describeOutcome(disk.newProcess(), disk)).toBe(after);
  }
  return [...seen].sort();
};

const put = (process: SimulatedProcess, path: string, text: string, byteOffset = 0): void => {
  const handle = process.open(path, { create: true });
  handle.pwrite(Buffer.from(text), byteOffset);
  handle.close();
};
const sync = (process: SimulatedProcess, path: string): void => {
  const handle = process.open(path);
  handle.fsync();
  handle.close();
};
const get = (process: SimulatedProcess, path: string): string => {
  if (process.disk.nodeAt(path) === undefined) return '-';
  const handle = process.open(path);
  const target = Buffer.alloc(handle.stat().byteLength);
  handle.pread(target, 0);
  handle.close();
  return target.toString('latin1').replaceAll(/\0+/g, '.');
};
const names = (process: SimulatedProcess): string => [...process.disk.tree().keys()].sort().join(' ');
const codeOf = (work: () => unknown): string => {
  try {
    work();
    return 'fine';
  } catch (error) {
    return error instanceof DiskError ? error.code : String(error);
  }
};
/** A file that is on the medium with its name. */
const durable = (process: SimulatedProcess, path: string, text: string): void => {
  put(process, path, text);
  sync(process, path);
  process.fsyncFolder('/');
};

describe('SimulatedDisk', () => {
  it('a crash keeps what was written, ends open files and locks, and starts no new boot', () => {
    const disk = new SimulatedDisk();
    const before = disk.newProcess();
    put(before, '/a', 'text');
    const handle = before.open('/a');
    expect(before.tryLock('/a')).toBe(true);
    expect(disk.newProcess().tryLock('/a')).toBe(false);
    const { bootId } = disk;
    disk.crash();
    expect(codeOf(() => handle.pread(Buffer.alloc(1), 0))).toBe('EKILLED');
    expect(codeOf(() => handle.pwrite(Buffer.alloc(1), 0))).toBe('EKILLED');
    expect(codeOf(() => before.readdir('/'))).toBe('EKILLED');
    const after = disk.newProcess();
    expect(get(after, '/a')).toBe('text');
    expect(after.tryLock('/a')).toBe(true);
    expect(disk.bootId).toBe(bootId);
    disk.powerCut();
    expect(disk.bootId).not.toBe(bootId);
  });

  it('the end of one process leaves the others alone', () => {
    const disk = new SimulatedDisk();
    const [one, other] = [disk.newProcess(), disk.newProcess()];
    put(one, '/a', 'text');
    one.kill();
    expect(get(other, '/a')).toBe('text');
  });

  it('what was synced with its name is there, and nothing else', () => {
    expect(
      outcomes(
        (p) => durable(p, '/a', 'text'),
        (p) => get(p, '/a'),
      ),
    ).toEqual(['text']);
  });

  it('a synced file without its name synced is there or not, but never with another content', () => {
    const history = (p: SimulatedProcess): void => {
      put(p, '/a', 'text');
      sync(p, '/a');
    };
    expect(outcomes(history, (p) => get(p, '/a'))).toEqual(['-', 'text']);
  });

  it('a name synced without its file leads to any content: nothing, a length of zeroes, or the text', () => {
    const history = (p: SimulatedProcess): void => {
      put(p, '/a', 'text');
      p.fsyncFolder('/');
    };
    expect(outcomes(history, (p) => get(p, '/a'))).toEqual(['', '.', 'text']);
  });

  it('a page has any one of its contents since the last sync, independently of its neighbour', () => {
    const history = (p: SimulatedProcess): void => {
      durable(p, '/a', `0${'\0'.repeat(4095)}0`);
      for (const digit of ['1', '2']) {
        put(p, '/a', digit);
        put(p, '/a', digit, 4096);
      }
    };
    const all = ['0', '1', '2'].flatMap((a) => ['0', '1', '2'].map((b) => `${a}.${b}`));
    expect(outcomes(history, (p) => get(p, '/a'))).toEqual(all);
  });

  it('a torn page mixes whole sectors of its contents, never less than a sector', () => {
    const history = (p: SimulatedProcess): void => {
      durable(p, '/a', 'a'.repeat(1024));
      put(p, '/a', 'b'.repeat(1024));
    };
    const outcome = (p: SimulatedProcess): string => get(p, '/a').replaceAll(/(.)\1{511}/g, '$1');
    expect(outcomes(history, outcome, 1)).toEqual(['aa', 'ab', 'ba', 'bb']);
  });

  it('a sync covers what was written before it through any handle, and nothing after it', () => {
    const history = (p: SimulatedProcess): void => {
      durable(p, '/a', '0');
      for (const digit of ['1', '2']) put(p, '/a', digit);
      sync(p, '/a');
      put(p, '/a', '3');
    };
    expect(outcomes(history, (p) => get(p, '/a'))).toEqual(['2', '3']);
  });

  it('a length is any of those since the last sync, and what lies behind it is gone', () => {
    const history = (p: SimulatedProcess): void => {
      durable(p, '/a', 'text');
      const handle = p.open('/a');
      handle.truncate(2);
      handle.truncate(3);
    };
    // Page and length are independent: the page may hold what was before it was cut.
    expect(outcomes(history, (p) => get(p, '/a'))).toEqual(['te', 'te.', 'tex', 'text']);
  });

  it('a hole that was punched is there or not, page by page, and gives its space back', () => {
    const history = (p: SimulatedProcess): void => {
      durable(p, '/a', `a${'\0'.repeat(4095)}b`);
      p.open('/a').punch(0, 8192);
      expect(p.disk.usedBytes).toBe(0);
    };
    const outcome = (p: SimulatedProcess, disk: SimulatedDisk): string => `${get(p, '/a')} ${disk.usedBytes}`;
    expect(outcomes(history, outcome)).toEqual(['. 0', '.b 4096', 'a. 4096', 'a.b 8192']);
  });

  it('unsynced names come in any subset', () => {
    const history = (p: SimulatedProcess): void => {
      put(p, '/a', '');
      put(p, '/b', '');
    };
    expect(outcomes(history, names)).toEqual(['', '/a', '/a /b', '/b']);
  });

  it('a rename is wholly there or not, over a synced file too, and the old file comes back', () => {
    const history = (p: SimulatedProcess): void => {
      durable(p, '/a', 'old');
      put(p, '/a.new', 'new');
      sync(p, '/a.new');
      p.rename('/a.new', '/a');
    };
    const outcome = (p: SimulatedProcess): string => `${get(p, '/a')} ${get(p, '/a.new')}`;
    expect(outcomes(history, outcome)).toEqual(['new -', 'old -', 'old new']);
  });

  it('a rename between folders is in both or in neither, whichever of them was synced', () => {
    for (const synced of [undefined, '/x', '/y']) {
      const history = (p: SimulatedProcess): void => {
        p.mkdir('/x');
        p.mkdir('/y');
        p.fsyncFolder('/');
        put(p, '/x/a', '');
        p.fsyncFolder('/x');
        p.rename('/x/a', '/y/a');
        if (synced !== undefined) p.fsyncFolder(synced);
      };
      expect(outcomes(history, names)).toEqual(synced === undefined ? ['/x /x/a /y', '/x /y /y/a'] : ['/x /y /y/a']);
    }
  });

  it('a removed name comes back with its file as it was synced, until the folder is synced', () => {
    const history = (p: SimulatedProcess): void => {
      durable(p, '/a', 'text');
      p.unlink('/a');
      expect(p.disk.usedBytes).toBe(0);
    };
    const outcome = (p: SimulatedProcess, disk: SimulatedDisk): string => `${get(p, '/a')} ${disk.usedBytes}`;
    expect(outcomes(history, outcome)).toEqual(['- 0', 'text 4096']);
    const withSync = (p: SimulatedProcess): void => {
      history(p);
      p.fsyncFolder('/');
    };
    expect(outcomes(withSync, outcome)).toEqual(['- 0']);
  });

  it('the operations on one name keep their order', () => {
    const history = (p: SimulatedProcess): void => {
      durable(p, '/a', 'one');
      p.unlink('/a');
      durableFileOnly(p, '/a', 'two');
    };
    const durableFileOnly = (p: SimulatedProcess, path: string, text: string): void => {
      put(p, path, text);
      sync(p, path);
    };
    expect(outcomes(history, (p) => get(p, '/a'))).toEqual(['-', 'one', 'two']);
  });

  it('a name that was synced is not lost to a later operation on it that came without the one before', () => {
    const history = (p: SimulatedProcess): void => {
      durable(p, '/a', 'one');
      p.rename('/a', '/b');
      put(p, '/a', 'two');
      sync(p, '/a');
    };
    expect(outcomes(history, (p) => `${get(p, '/a')} ${get(p, '/b')}`)).toEqual(['- one', 'one -', 'two one']);
  });

  it('a folder whose own name is not synced takes its synced files with it', () => {
    const history = (p: SimulatedProcess): void => {
      p.mkdir('/x');
      durableIn(p);
    };
    const durableIn = (p: SimulatedProcess): void => {
      put(p, '/x/a', 'text');
      sync(p, '/x/a');
      p.fsyncFolder('/x');
    };
    expect(outcomes(history, (p) => names(p))).toEqual(['', '/x /x/a']);
  });

  it('two names of one file are one file, and its content goes with the last of them', () => {
    const disk = new SimulatedDisk();
    const process = disk.newProcess();
    put(process, '/a', 'text');
    process.link('/a', '/b');
    expect(codeOf(() => process.link('/a', '/b'))).toBe('EEXIST');
    process.unlink('/a');
    expect(get(process, '/b')).toBe('text');
    const handle = process.open('/b');
    process.unlink('/b');
    expect(disk.usedBytes).toBe(4096);
    expect(handle.pread(Buffer.alloc(4), 0)).toBe(4);
    handle.close();
    expect(disk.usedBytes).toBe(0);
  });

  it('a full disk fails the write with a part of it done, and room that is given back can be used', () => {
    const disk = new SimulatedDisk({ capacityBytes: 8192 });
    const process = disk.newProcess();
    expect(codeOf(() => put(process, '/a', 'x'.repeat(12_288)))).toBe('ENOSPC');
    expect(disk.usedBytes).toBe(8192);
    expect(codeOf(() => put(process, '/a', 'y', 100))).toBe('fine'); // where there is space already
    process.unlink('/a');
    disk.crash();
    expect(disk.usedBytes).toBe(0);
    expect(codeOf(() => put(disk.newProcess(), '/b', 'x'.repeat(8192)))).toBe('fine');
  });

  it('after a failed sync a page is there, lost and still cached, or lost and dropped; the next sync says nothing', () => {
    const seen = new Set<string>();
    for (let seed = 1; seed <= 100; seed += 1) {
      const disk = new SimulatedDisk({ random: new Random(seed) });
      const process = disk.newProcess();
      durable(process, '/a', '0');
      put(process, '/a', '1');
      disk.fault = (call) => (call === 'sync' ? 'EIO' : undefined);
      expect(codeOf(() => sync(process, '/a'))).toBe('EIO');
      disk.fault = undefined;
      sync(process, '/a');
      const cached = get(process, '/a');
      disk.powerCut();
      seen.add(`${cached} then ${get(disk.newProcess(), '/a')}`);
    }
    expect([...seen].sort()).toEqual(['0 then 0', '1 then 0', '1 then 1']);
  });

  it('rot on the medium is seen only when the page is read from there', () => {
    const disk = new SimulatedDisk();
    const process = disk.newProcess();
    durable(process, '/a', 'text');
    disk.flipBit('/a', 0, 0);
    const handle = process.open('/a');
    expect(get(process, '/a')).toBe('text');
    expect(handle.isResident(0, 4)).toBe(true);
    disk.dropPages('/a');
    expect(handle.isResident(0, 4)).toBe(false);
    expect(get(process, '/a')).toBe('uext');
    expect(handle.isResident(0, 4)).toBe(true);
  });
});
