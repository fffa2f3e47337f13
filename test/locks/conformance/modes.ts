/** Conformance of the modes together, of acquireAll, of remote leases, and of inspect and list. */
import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { type Lease, LeaseLostError, LockBusyError } from '../../../src/shared/locks/api.ts'
import type { LockServer } from '../lock-servers.ts'
import { inEachMode, locksOf, unused, upTo, waitersReach } from './contract.ts'

export function conformModes(server: LockServer): void {
  const shares = server.modes.includes('shared')
  const permits = server.modes.includes('permit')

  if (shares) {
    t.test('shared and exclusive: readers together, a writer alone', async (t) => {
      const fleet = await Promise.all([locksOf(t, server), locksOf(t, server), locksOf(t, server)])
      let [readers, writers, most, wrong] = [0, 0, 0, 0]
      const loops = upTo(12).map(async (n) => {
        for (let round = 0; round < 5; round++) {
          const writes = (n + round) % 4 === 0
          const ask = writes ? {} : { mode: 'shared' as const }
          await fleet[n % 3]?.withLease('modes:1', { ...ask, wait_ms: 30_000 }, async () => {
            if (writes) writers += 1
            else readers += 1
            most = Math.max(most, readers)
            if (writers > 1 || (writers > 0 && readers > 0)) wrong += 1
            await sleep(3)
            if (writes) writers -= 1
            else readers -= 1
          })
        }
      })
      await Promise.all(loops)
      t.equal(wrong, 0)
      t.ok(most > 1, `${most} readers at once`)
      await unused(fleet[0], 'modes:1')
    })

    t.test('dead reader: its share expires, although others renew theirs', async (t) => {
      const ttl_ms = 1500
      const locks = await locksOf(t, server, ttl_ms)
      const dead = await locks.remote.acquire('reader:1', { mode: 'shared' })
      const alive = await locks.acquire('reader:1', { mode: 'shared' })
      await sleep(server.dead_after_ms(ttl_ms) + 150)
      alive.assertValid()
      t.equal((await locks.inspect('reader:1')).holders.length, 1)
      await t.rejects(locks.remote.extend(dead.handle), LeaseLostError)
      t.equal(await locks.tryAcquire('reader:1'), undefined)
      await alive.release()
      await unused(locks, 'reader:1')
    })
  }

  t.test('acquireAll: all or none, a resource named twice counts once', async (t) => {
    const [locks, other] = await Promise.all([locksOf(t, server), locksOf(t, server)])
    const wanted = [
      'set:c',
      ...(shares ? [{ resource: 'set:b', mode: 'shared' as const }] : []),
      ...(permits ? [{ resource: 'set:d', mode: 'permit' as const, limit: 2 }] : []),
      ...(shares ? [{ resource: 'set:c', mode: 'shared' as const }] : []),
      'set:a',
      'set:a',
    ]
    const names = ['set:a', ...(shares ? ['set:b'] : []), 'set:c', ...(permits ? ['set:d'] : [])]
    {
      await using set = await locks.acquireAll(wanted)
      t.same([...set.leases.keys()], names)
      t.equal(set.leases.get('set:c')?.mode, 'exclusive', 'exclusive covers shared')
      set.assertValid()
      await t.rejects(other.acquireAll(['set:z', 'set:a']), LockBusyError)
      await unused(other, 'set:z')
      const notified = new Promise((resolve) => set.signal.addEventListener('abort', resolve))
      await other.forceRelease('set:c')
      await notified
      t.throws(
        () => set.assertValid(),
        { code: 'lease_lost', resource: 'set:c' },
        'the set is lost with one of its leases',
      )
    }
    const holder = await other.acquire('set:c', { owner: 'in the way' })
    await t.rejects(locks.acquireAll(wanted), { code: 'lock_busy', resource: 'set:c', holder: 'in the way' })
    await t.rejects(locks.acquireAll(wanted, { wait_ms: 80 }), { code: 'lock_busy', resource: 'set:c' })
    for (const name of names.filter((name) => name !== 'set:c')) await unused(other, name)
    const waits = locks.acquireAll(wanted, { wait_ms: 20_000 })
    await waitersReach(other, 'set:c', 1)
    await holder.release()
    await (await waits).release()
    for (const name of names) await unused(other, name)
  })

  t.test('acquireAll of {A, B} and {B, A} at once, many times: no deadlock', async (t) => {
    const fleet = await Promise.all([locksOf(t, server), locksOf(t, server)])
    const inside = new Map<string, number>()
    let most = 0
    const loops = upTo(6).map(async (n) => {
      for (let round = 0; round < 5; round++) {
        const pair = n % 2 ? ['pair:a', 'pair:b'] : ['pair:b', 'pair:a']
        await using _both = await (fleet[n % 2] ?? fleet[0]).acquireAll(pair, { wait_ms: 20_000 })
        for (const name of pair) {
          inside.set(name, (inside.get(name) ?? 0) + 1)
          most = Math.max(most, inside.get(name) ?? 0)
        }
        await sleep(1)
        for (const name of pair) inside.set(name, (inside.get(name) ?? 0) - 1)
      }
    })
    await Promise.all(loops)
    t.equal(most, 1)
    await unused(fleet[0], 'pair:a')
  })

  t.test('tryAcquireMany: those that are free', async (t) => {
    const locks = await locksOf(t, server)
    await using _held = await locks.acquire('many:2')
    const leases = await locks.tryAcquireMany(['many:1', 'many:2', 'many:3', 'many:1'])
    t.same([...leases.keys()], ['many:1', 'many:3'])
    await locks.releaseMany(leases.values())
    await unused(locks, 'many:1')
  })

  t.test('remote lease: any process renews and releases it by its handle', async (t) => {
    const ttl_ms = 1500
    const fleet = await Promise.all([locksOf(t, server, ttl_ms), locksOf(t, server), locksOf(t, server)])
    const [giver, second, third] = fleet
    await inEachMode(server, 'remote', async ({ ask, mode, rival }, resource) => {
      const asked_at = Date.now()
      const lease = await giver.remote.acquire(resource, ask)
      t.match(lease, { resource, mode, ttl_ms })
      t.match(lease.handle, /^[\w-]+$/, 'safe in a URL')
      t.ok(lease.expires_at_ms >= asked_at + ttl_ms - 1 && lease.expires_at_ms <= Date.now() + ttl_ms)
      for (let i = 0; i < 6; i++) {
        await sleep(350)
        const renewed = await (fleet[i % 3] ?? giver).remote.extend(lease.handle)
        t.equal(renewed.token, lease.token)
      }
      t.equal(await second.tryAcquire(resource, rival), undefined)
      // A waiter gets a whole TTL, too.
      const next = second.remote.acquire(resource, { ...rival, wait_ms: 20_000, ttl_ms: 3000 })
      await waitersReach(third, resource, 1)
      t.same(await third.remote.release(lease.handle), { released: true })
      const heir = await next
      t.ok(heir.token > lease.token)
      const [holder] = (await third.inspect(resource)).holders
      t.ok((holder?.ttl_left_ms ?? 0) > 2000)
      t.match(await giver.remote.release(lease.handle), { released: false })
      t.same(await third.remote.release(heir.handle), { released: true })
      await unused(third, resource)
    })
  })

  t.test('any prefix: all locks are listed, handed over, and leave nothing behind', async (t) => {
    const prefixes = ['shop:', 'lock:', 'block:{x}:', '{shop}:']
    const each = prefixes.flatMap((prefix) =>
      ['', 'app:', 'app:lock:{y}:'].map(async (keyPrefix) => {
        const locks = await locksOf(t, server, 30_000, { prefix, keyPrefix })
        const name = `${keyPrefix}${prefix}`
        const lease = await locks.acquire('list:{1}')
        await lease.extend()
        const next = locks.acquire('list:{1}', { wait_ms: 30_000 })
        await waitersReach(locks, 'list:{1}', 1)
        const reader = await locks.acquire('list:2', { mode: 'shared' })
        const listed = await locks.list()
        t.match(
          listed.map((one) => [one.resource, one.holders.length, one.waiters.length]),
          [
            ['list:2', 1, 0],
            ['list:{1}', 1, 1],
          ],
          name,
        )
        const began = performance.now()
        await lease.release()
        const set = await next
        t.ok(performance.now() - began < 10_000, `${name}: by a message`)
        const notified = new Promise((resolve) => set.signal.addEventListener('abort', resolve, { once: true }))
        await locks.forceRelease('list:{1}')
        await notified
        await reader.release()
        await unused(locks, 'list:{1}')
        t.same(await locks.list(), [], name)
      }),
    )
    await Promise.all(each)
  })

  t.test('inspect: holders and waiters, in order', async (t) => {
    const [locks, other] = await Promise.all([locksOf(t, server), locksOf(t, server, 3000, { instance: 'the other' })])
    await inEachMode(server, 'look', async ({ ask, mode, rival }, resource) => {
      const holder = await locks.acquire(resource, { ...ask, owner: 'first', job: 'job 7' })
      const stop = new AbortController()
      const waits: Promise<Lease>[] = []
      for (const owner of ['second', undefined]) {
        waits.push(other.acquire(resource, { ...rival, ...(owner && { owner }), wait_ms: 20_000, signal: stop.signal }))
        await waitersReach(other, resource, waits.length)
      }
      const ended = Promise.allSettled(waits)
      const state = await other.inspect(resource)
      t.match(state, {
        resource,
        holders: [{ owner: 'first job 7', mode, token: holder.token }],
        waiters: [{ owner: 'second', mode: rival.mode ?? 'exclusive' }, { owner: 'the other' }],
      })
      t.ok(state.fencing_token >= holder.token)
      const [held] = state.holders
      t.ok(
        held && held.ttl_left_ms > 1000 && held.ttl_left_ms <= server.dead_after_ms(3000),
        `${held?.ttl_left_ms} ms left`,
      )
      t.ok(held && Math.abs(Date.now() - held.since_ms) < 5000)
      const listed = (await other.list()).filter((one) => one.resource === resource)
      t.match(listed, [{ resource, holders: [{ owner: 'first job 7' }] }])
      stop.abort()
      await ended
      await holder.release()
      await unused(other, resource)
    })
    t.same((await locks.inspect('look:never')).holders, [])
  })

  if (permits) permitsUnderKills(server)
}

interface Spell {
  from_ms: number
  to_ms: number
}

/** 100 contenders for 5 permits, in processes that are killed one after the other. */
function permitsUnderKills(server: LockServer): void {
  const limit = 5
  const ttl_ms = server.crowd_ttl_ms
  const now_ms = () => Number(process.hrtime.bigint() / 1000n) / 1000

  t.test('5 permits, 100 contenders, random kills: never 6 at once, all 5 usable within one TTL', async (t) => {
    const locks = await locksOf(t, server, ttl_ms)
    const resource = 'permits:1'
    const spells = new Map<number, Spell>()
    const children = upTo(3).map((n) => {
      const child = fork(new URL('../lock-contender.ts', import.meta.url))
      t.teardown(() => child.kill('SIGKILL'))
      const mine: Spell[] = []
      child.on('message', (notified: { token: number; from_ms?: number; to_ms?: number }) => {
        if (typeof notified !== 'object') return
        const spell = spells.get(notified.token) ?? { from_ms: 0, to_ms: Number.POSITIVE_INFINITY }
        Object.assign(spell, notified)
        if (!spells.has(notified.token)) mine.push(spell)
        spells.set(notified.token, spell)
      })
      return { child, mine, contenders: n === 0 ? 34 : 33 }
    })
    await Promise.all(children.map(({ child }) => once(child, 'message')))
    for (const { child, contenders } of children) {
      child.send({ address: server.address, resource, contenders, limit, ttl_ms, hold_ms: 15 })
    }
    const kill = async ({ child, mine }: { child: ChildProcess; mine: Spell[] }) => {
      const gone = once(child, 'exit')
      child.kill('SIGKILL')
      await gone
      const at = now_ms()
      // What it held is free now. Its last messages may still be on the way.
      child.once('close', () => {})
      for (const spell of mine) spell.to_ms = Math.min(spell.to_ms, at)
    }
    let most = 0
    let over = false
    const watching = (async () => {
      while (!over) {
        most = Math.max(most, (await locks.inspect(resource)).holders.length)
        await sleep(3)
      }
    })()
    const given = async (count: number) => {
      while (spells.size < count) {
        if (children.some(({ child }) => child.exitCode !== null)) throw new Error('a contender ended by itself')
        await sleep(5)
      }
    }
    await given(40)
    for (const one of children.slice(1)) {
      await sleep(100 + Math.random() * 300)
      await kill(one)
      await given(spells.size + 20)
    }
    await kill(children[0] as (typeof children)[number])
    const began = performance.now()
    const fresh = await Promise.all(
      upTo(limit).map(() => locks.acquire(resource, { mode: 'permit', limit, wait_ms: 20_000 })),
    )
    const took = performance.now() - began
    // A permit granted at the last moment ends one TTL later, and a waiter notices a little after that.
    t.ok(took < server.dead_after_ms(ttl_ms) + 250, `all 5 usable again after ${Math.round(took)} ms`)
    over = true
    await watching
    t.ok(most <= limit, `${most} held at once, by the server`)
    t.equal(await locks.tryAcquire(resource, { mode: 'permit', limit }), undefined)
    await locks.releaseMany(fresh)
    const steps = [...spells.values()]
      .flatMap(({ from_ms, to_ms }) => [
        { at: from_ms, by: 1 },
        { at: to_ms, by: -1 },
      ])
      .sort((a, b) => a.at - b.at || a.by - b.by)
    let inside = 0
    const highest = steps.reduce((so_far, { by }) => {
      inside += by
      return Math.max(so_far, inside)
    }, 0)
    t.equal(highest, limit, `${spells.size} permits were used, ${highest} at once, by the holders' clock`)
    await unused(locks, resource)
  })
}
