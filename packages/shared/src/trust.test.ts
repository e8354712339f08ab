/** Trust files, heads and what a client has seen: every way in which a repository can lie or go back. */
import { describe, expect, it } from 'vitest';
import { type Digest } from './brands.js';
import { sha256 } from './digest.js';
import { PAYLOAD_TYPES, signEnvelope } from './envelope.js';
import { type Heads, type SeenHeads, compareHeads, decodeHeads, encodeHeads, openHeads } from './heads.js';
import { type SigningKey, signingKeyFromSeed } from './signing-key.js';
import { codeOf } from './testing/code-of.js';
import { countingBytes, goldenFirstTrustFile, goldenHeads, goldenTrust } from './testing/golden-examples.js';
import { type TrustFile, encodeTrustFile, followTrust, openFirstTrust, publisherKeys } from './trust-file.js';

const key = (first: number): SigningKey => signingKeyFromSeed(countingBytes(32, first));
const [one, two, three, four, five] = [key(1), key(2), key(3), key(4), key(5)];
const headsKey = key(10);
const digestOf = (text: string): Digest => sha256(Buffer.from(text));
const trustFile = (trust: TrustFile, ...signers: SigningKey[]): Buffer =>
  signEnvelope({ payloadType: PAYLOAD_TYPES.trust, payload: encodeTrustFile(trust), signers });
const second: TrustFile = { ...goldenTrust, number: 2 };

describe('trust', () => {
  it('begins with the file that the join link names, and with no other', () => {
    expect(openFirstTrust(goldenFirstTrustFile, sha256(goldenFirstTrustFile))).toEqual(goldenTrust);
    expect(codeOf(() => openFirstTrust(goldenFirstTrustFile, digestOf('another')))).toBe('wrong-server');
    const bySingle = trustFile(goldenTrust, one);
    expect(codeOf(() => openFirstTrust(bySingle, sha256(bySingle)))).toBe('untrusted');
    const secondAsFirst = trustFile(second, one, two);
    expect(codeOf(() => openFirstTrust(secondAsFirst, sha256(secondAsFirst)))).toBe('malformed');
  });

  it('goes on with any two of the three root keys', () => {
    expect(followTrust(goldenTrust, trustFile(second, two, three))).toEqual(second);
    expect(codeOf(() => followTrust(goldenTrust, trustFile(second, two)))).toBe('untrusted');
    expect(codeOf(() => followTrust(goldenTrust, trustFile(second, two, four)))).toBe('untrusted');
  });

  it('hands over to other root keys only when the old ones and the new ones have signed', () => {
    const handedOver = { ...second, rootKeys: [four.publicKey, five.publicKey] };
    expect(codeOf(() => followTrust(goldenTrust, trustFile(handedOver, one, two)))).toBe('untrusted');
    expect(codeOf(() => followTrust(goldenTrust, trustFile(handedOver, four, five)))).toBe('untrusted');
    expect(followTrust(goldenTrust, trustFile(handedOver, one, two, four, five))).toEqual(handedOver);
    const third = { ...handedOver, number: 3 };
    expect(codeOf(() => followTrust(handedOver, trustFile(third, one, two, three)))).toBe('untrusted');
    expect(followTrust(handedOver, trustFile(third, four, five))).toEqual(third);
  });

  it('never goes back, stays or jumps', () => {
    for (const number of [1, 2, 4]) {
      expect(codeOf(() => followTrust(second, trustFile({ ...goldenTrust, number }, one, two)))).toBe('rollback');
    }
  });

  it('names the keys of an appliance, those of all appliances among them', () => {
    const trust: TrustFile = {
      ...goldenTrust,
      publishers: [
        { name: 'a', key: one.publicKey, appliances: ['*'] },
        { name: 'b', key: two.publicKey, appliances: ['tiny', 'debian'] },
      ],
    };
    expect(publisherKeys(trust, 'debian')).toEqual([one.publicKey, two.publicKey]);
    expect(publisherKeys(trust, 'debia')).toEqual([one.publicKey]);
  });

  it.each<[string, Partial<TrustFile>]>([
    ['a threshold that its keys cannot reach', { rootThreshold: 4 }],
    ['a threshold of none', { rootThreshold: 0 }],
    ['a root key twice', { rootKeys: [one.publicKey, one.publicKey] }],
    ['a heads key twice', { headsKeys: [one.publicKey, one.publicKey] }],
    ['no heads key', { headsKeys: [] }],
    [
      'a publishing key twice',
      { publishers: ['a', 'b'].map((name) => ({ name, key: one.publicKey, appliances: ['*'] })) },
    ],
    ['all appliances and one more', { publishers: [{ name: 'a', key: one.publicKey, appliances: ['*', 'x'] }] }],
    ['a recount of a later file', { recount: [{ appliance: 'x', version: 1, since: 2 }] }],
    ['a key in another spelling', { rootKeys: [one.publicKey.slice(0, 42) + 'B'] }],
  ])('refuses a file with %s', (_name, change) => {
    expect(codeOf(() => encodeTrustFile({ ...goldenTrust, rootThreshold: 1, ...change }))).toBe('malformed');
  });
});

const head = (appliance: string, version: number): Heads['heads'][number] => ({
  appliance,
  version,
  manifest: digestOf(`${appliance} ${version}`),
});
const heads = (number: number, ...list: Heads['heads']): Heads => ({ ...goldenHeads, number, heads: list });
const headsFile = (value: Heads, signer: SigningKey): Buffer =>
  signEnvelope({ payloadType: PAYLOAD_TYPES.heads, payload: encodeHeads(value), signers: [signer] });
const seenOf = (value: Heads): SeenHeads => ({ ...value, digest: digestOf(JSON.stringify(value)) });

describe('heads', () => {
  it('count when a heads key of the trust file signed them', () => {
    const file = headsFile(goldenHeads, headsKey);
    expect(openHeads(file, goldenTrust)).toEqual({ ...goldenHeads, digest: sha256(file) });
    expect(codeOf(() => openHeads(headsFile(goldenHeads, one), goldenTrust))).toBe('untrusted');
  });

  it('betray a repository that keeps back a newer trust file', () => {
    expect(() => openHeads(headsFile({ ...goldenHeads, trust: 2 }, headsKey), goldenTrust)).toThrow(
      expect.objectContaining({ code: 'rollback', data: { trust: 2 } }),
    );
  });

  it('are refused when names are not sorted or not distinct', () => {
    for (const list of [
      [head('b', 1), head('a', 1)],
      [head('a', 1), head('a', 2)],
    ]) {
      expect(codeOf(() => decodeHeads(Buffer.from(JSON.stringify(heads(1, ...list)))))).toBe('malformed');
    }
  });
});

describe('what a client has seen', () => {
  const seen = compareHeads(undefined, seenOf(heads(5, head('a', 3), head('b', 7))), goldenTrust);

  it('grows with each heads file', () => {
    const next = compareHeads(seen, seenOf(heads(6, head('a', 4), head('b', 7), head('c', 1))), goldenTrust);
    expect(next.number).toBe(6);
    expect(next.heads).toEqual([head('a', 4), head('b', 7), head('c', 1)]);
    expect(compareHeads(seen, seenOf(heads(5, head('a', 3), head('b', 7))), goldenTrust)).toEqual(seen);
  });

  it.each([
    ['a lower number', heads(4, head('a', 3), head('b', 7))],
    ['the same number with other content', heads(5, head('a', 4), head('b', 7))],
    ['a lower version', heads(6, head('a', 2), head('b', 7))],
    ['another manifest for a version', heads(6, { ...head('a', 3), manifest: digestOf('other') }, head('b', 7))],
  ])('refuses %s', (_name, next) => {
    expect(codeOf(() => compareHeads(seen, seenOf(next), goldenTrust))).toBe('rollback');
  });

  it('keeps the floor of an appliance that disappears', () => {
    const without = compareHeads(seen, seenOf(heads(6, head('b', 7))), goldenTrust);
    expect(without.heads).toEqual([head('a', 3), head('b', 7)]);
    expect(codeOf(() => compareHeads(without, seenOf(heads(7, head('a', 2), head('b', 7))), goldenTrust))).toBe(
      'rollback',
    );
  });

  it('is forgotten above a recount, once: after it the versions count upwards again', () => {
    const recount: TrustFile = { ...goldenTrust, number: 2, recount: [{ appliance: 'b', version: 5, since: 2 }] };
    expect(codeOf(() => compareHeads(seen, seenOf(heads(6, head('a', 3), head('b', 4))), recount))).toBe('rollback');
    const counted = compareHeads(seen, seenOf(heads(6, head('a', 3), head('b', 5))), recount);
    expect(counted.trust).toBe(2);
    const later = compareHeads(counted, seenOf(heads(7, head('a', 3), head('b', 6))), recount);
    expect(codeOf(() => compareHeads(later, seenOf(heads(8, head('a', 3), head('b', 5))), recount))).toBe('rollback');
    const third: TrustFile = { ...recount, number: 3 };
    expect(codeOf(() => compareHeads(later, seenOf(heads(8, head('a', 3), head('b', 5))), third))).toBe('rollback');
    expect(codeOf(() => compareHeads(seen, seenOf(heads(6, head('a', 2), head('b', 7))), recount))).toBe('rollback');
  });
});
