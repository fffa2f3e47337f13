/**
 * Conformance of argument checks: an invalid argument is rejected with an error that names it, before any request is
 * sent.
 */
import t from 'tap'
import type { Locks } from '../../../src/shared/locks/api.ts'
import type { LockServer } from '../lock-servers.ts'
import { locksOf } from './contract.ts'

// biome-ignore lint/suspicious/noExplicitAny: an untyped program may pass anything
type Anything = any

/** By the option that the error names. */
const WRONG: Record<string, Anything[]> = {
  wait_ms: [Number.NaN, '3000', Number.POSITIVE_INFINITY, -1, null, 10n],
  ttl_ms: [Number.NaN, '3000', Number.POSITIVE_INFINITY, -1, 0, 19, 0.5, null, 86_400_001],
  mode: ['exklusive', '', 1, null],
  limit: [1, 0, 1.5, '1', null],
  above: [-1, 0.5, 2 ** 60, Number.NaN, '7', null],
  owner: [7, {}, null],
  job: [7, {}, null],
  signal: ['now', {}, null, new AbortController()],
  within: ['lease', {}, null, { assertValid() {} }],
  max_hold_ms: [0, -1, 1.5, Number.NaN, Number.POSITIVE_INFINITY, '1000', null],
  progress_ms: [0, -1, 1.5, Number.NaN, Number.POSITIVE_INFINITY, '1000', null],
}

const RESOURCES: Anything[] = [undefined, null, '', 7, {}, ['a:1'], 'lone:\ud800']

export function conformArguments(server: LockServer): void {
  const named = (name: string) =>
    ({ name: /^(Range|Type)Error$/, message: new RegExp(`\\b${name}\\b`) }) as unknown as Error

  t.test('invalid option: every function that accepts it rejects', async (t) => {
    const locks: Anything = await locksOf(t, server, 60_000)
    const calls: [string, (options: Anything) => Promise<unknown>, without?: string[]][] = [
      ['acquire', (options) => locks.acquire('bad:1', options)],
      ['tryAcquire', (options) => locks.tryAcquire('bad:1', options), ['wait_ms']],
      ['withLease', (options) => locks.withLease('bad:1', options, async () => t.fail('the body must not run'))],
      ['acquireAll', (options) => locks.acquireAll(['bad:1', 'bad:2'], options), ['mode', 'limit']],
      [
        'acquireAll of one',
        ({ mode, limit }) => locks.acquireAll([{ resource: 'bad:1', ...(limit === undefined ? { mode } : { limit }) }]),
        Object.keys(WRONG).filter((name) => name !== 'mode' && name !== 'limit'),
      ],
      ['tryAcquireMany', (options) => locks.tryAcquireMany(['bad:1', 'bad:2'], options), ['wait_ms']],
      ['remote.acquire', (options) => locks.remote.acquire('bad:1', options)],
    ]
    for (const [call, ask, without = []] of calls) {
      for (const [name, values] of Object.entries(WRONG)) {
        if (without.includes(name)) continue
        for (const value of values)
          await t.rejects(ask({ [name]: value }), named(name), `${call} ${name}: ${String(value)}`)
      }
      if (call.startsWith('acquireAll of')) continue
      for (const options of [null, 3000, 'exclusive'])
        await t.rejects(ask(options), named('options'), `${call} ${options}`)
    }
    t.same(await locks.list(), [], 'no request was sent')
  })

  t.test('invalid resource: every function that accepts it rejects', async (t) => {
    const locks: Anything = await locksOf(t, server, 60_000)
    const calls: Record<string, (resource: Anything) => Promise<unknown>> = {
      acquire: (resource) => locks.acquire(resource),
      tryAcquire: (resource) => locks.tryAcquire(resource),
      withLease: (resource) => locks.withLease(resource, {}, async () => t.fail('the body must not run')),
      acquireAll: (resource) => locks.acquireAll(['bad:1', resource]),
      'acquireAll of one': (resource) => locks.acquireAll([{ resource }]),
      tryAcquireMany: (resource) => locks.tryAcquireMany(['bad:1', resource]),
      'remote.acquire': (resource) => locks.remote.acquire(resource),
      inspect: (resource) => locks.inspect(resource),
      forceRelease: (resource) => locks.forceRelease(resource),
    }
    for (const [call, ask] of Object.entries(calls)) {
      for (const resource of RESOURCES) await t.rejects(ask(resource), named('resource'), `${call} ${String(resource)}`)
    }
    t.same(await locks.list(), [], 'no request was sent')
  })

  t.test('invalid body, requests, resources, above, leases, handle: rejected', async (t) => {
    const locks: Anything = await locksOf(t, server, 60_000)
    await t.rejects(locks.withLease('bad:1', {}), named('body'))
    for (const wanted of [undefined, 'bad:1', [], 7]) await t.rejects(locks.acquireAll(wanted), named('requests'))
    for (const resources of [undefined, 'bad:1', 7])
      await t.rejects(locks.tryAcquireMany(resources), named('resources'))
    for (const above of WRONG.above ?? []) await t.rejects(locks.forceRelease('bad:1', { above }), named('above'))
    for (const leases of [undefined, 7, [undefined], ['bad:1']])
      await t.rejects(locks.releaseMany(leases), named('leases'))
    for (const handle of [undefined, '', 7, 'bad']) {
      await t.rejects(locks.remote.extend(handle), named('handle'))
      await t.rejects(locks.remote.release(handle), named('handle'))
    }
    t.same(await (locks as Locks).list(), [])
  })

  t.test('valid boundary values of optional arguments: accepted', async (t) => {
    const locks: Anything = await locksOf(t, server, 60_000)
    const options = {
      wait_ms: 0.5,
      owner: '',
      job: 'ä',
      above: 0,
      signal: undefined,
      mode: undefined,
      limit: undefined,
    }
    await (await locks.acquire('ok:1', { ...options, ttl_ms: undefined, within: undefined })).release()
    await (await locks.acquire('ok:}{ /%\n', undefined)).release()
    t.same((await locks.tryAcquireMany([])).size, 0)
  })
}
