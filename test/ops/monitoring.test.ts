/**
 * Compares alerts and dashboard with the metrics that the processes export: every rule fires in one case and not in
 * another (promtool), every name and label exists, and every query of the dashboard has data during a sale (real
 * Prometheus).
 */
import { spawn, spawnSync } from 'node:child_process'
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { parse, stringify } from 'yaml'
import { ensurePrometheus, ROOT } from '../../ops/dev/install.mjs'
import { anyFreePort } from '../../ops/dev/process-registry.mjs'
import { openShop } from '../support/api-client.ts'
import { openWorld, until } from '../support/environment.ts'

interface Rule {
  alert: string
  expr: string
  annotations: Record<string, string>
}
interface Case {
  alert_rule_test: { alertname: string; exp_alerts?: unknown[] }[]
}
interface Panel {
  title: string
  gridPos: { x: number; y: number; w: number; h: number }
  datasource: { uid: string }
  targets: { expr: string }[]
}

const read = (path: string) => readFileSync(join(ROOT, 'ops/deploy', path), 'utf8')
const rules: Rule[] = parse(read('prometheus/alerts.yml')).groups.flatMap((group: { rules: Rule[] }) => group.rules)
const dashboard: { panels: Panel[] } = JSON.parse(read('grafana/dashboards/holdfast.json'))
const queries = dashboard.panels.flatMap(({ title, targets }) => targets.map(({ expr }) => ({ title, expr })))

const found = (() => {
  try {
    return ensurePrometheus((line) => t.comment(line))
  } catch (error) {
    t.comment(`${(error as Error).message}: rules and queries are only read`)
    return undefined
  }
})()

t.test('rules: each has a case in which it fires and one in which it does not', async (t) => {
  const asked = parse(read('prometheus/alerts.test.yml')).tests.flatMap((one: Case) => one.alert_rule_test)
  for (const { alert, annotations } of rules) {
    const cases = asked.filter((one: { alertname: string }) => one.alertname === alert)
    t.ok(
      cases.some((one: { exp_alerts?: unknown[] }) => one.exp_alerts?.length),
      `${alert} fires`,
    )
    t.ok(
      cases.some((one: { exp_alerts?: unknown[] }) => !one.exp_alerts?.length),
      `${alert} is quiet`,
    )
    t.ok(annotations.summary && annotations.description, `${alert} says what to do`)
  }
  for (const { alertname } of asked)
    t.ok(
      rules.some(({ alert }) => alert === alertname),
      `${alertname} is a rule`,
    )
  if (!found) return
  for (const args of [
    ['check', 'config', 'prometheus.yml'],
    ['test', 'rules', 'alerts.test.yml'],
  ]) {
    const { status, stdout, stderr } = spawnSync(found.promtool, args, {
      cwd: join(ROOT, 'ops/deploy/prometheus'),
      encoding: 'utf8',
    })
    t.equal(status, 0, `promtool ${args.join(' ')}\n${stdout}${stderr}`)
  }
})

t.test('panels: none overlaps another, and each queries the provisioned Prometheus', async (t) => {
  const { datasources } = parse(read('grafana/datasources/prometheus.yml'))
  const taken = new Set<string>()
  for (const { title, gridPos, datasource } of dashboard.panels) {
    t.equal(datasource.uid, datasources[0].uid, title)
    const cells: string[] = []
    for (let x = gridPos.x; x < gridPos.x + gridPos.w; x++) {
      for (let y = gridPos.y; y < gridPos.y + gridPos.h; y++) cells.push(`${x},${y}`)
    }
    t.ok(gridPos.x + gridPos.w <= 24 && cells.every((cell) => !taken.has(cell)), `${title} is beside the others`)
    for (const cell of cells) taken.add(cell)
  }
})

/** metric name → the labels of its samples */
function names(page: string): Map<string, Set<string>> {
  const all = new Map<string, Set<string>>()
  for (const [, name = '', labels = ''] of page.matchAll(/^([a-z_]\w*)(?:\{(.*)\})? \S+$/gim)) {
    const known = all.get(name) ?? new Set()
    for (const [, label = ''] of labels.matchAll(/(\w+)="/g)) known.add(label)
    all.set(name, known)
  }
  return all
}

/** Returns the metrics that a query names, and the labels by which it selects or groups. */
function namedBy(expr: string) {
  const bare = expr.replaceAll(/"[^"]*"/g, '""')
  const grouped = Array.from(bare.matchAll(/\bby \(([^)]*)\)/g), ([, list = '']) => list.split(/,\s*/)).flat()
  const selected = Array.from(bare.matchAll(/(\w+)\s*(?:=~|!=|!~|=)\s*""/g), ([, label = '']) => label)
  const rest = bare
    .replaceAll(/\bby \([^)]*\)/g, '')
    .replaceAll(/\{[^}]*\}/g, '')
    .replaceAll(/\[[^\]]*\]/g, '')
  const metrics = Array.from(rest.matchAll(/\b([a-z_]\w*)\b(?!\s*\()/g), ([, name = '']) => name)
  return {
    metrics: metrics.filter((name) => !['and', 'or', 'unless'].includes(name)),
    labels: [...grouped, ...selected],
  }
}

t.test('running fleet: exports every name and label, and every query has data during a sale', async (t) => {
  const world = await openWorld(t)
  const [api, ...workers] = await Promise.all([world.startApi(), world.startWorker()])
  const processes = [api, ...workers]
  const shop = openShop(t, [api.url], world.env.DATABASE_URL)
  const product = await shop.units('product', 1_000_000)
  const room = await shop.calendar('room')
  let selling = true
  let day = 0
  const sell = async () => {
    while (selling) {
      await shop.buy({ customer: 'ada', lines: [{ resource: product, units: 1 }] }, { prefer: 'wait=10' })
      const [from, to] = [day++, day].map((n) => new Date(Date.UTC(2030, 0, 1 + n)).toISOString())
      await shop.book({ resource: room, customer: 'bob', from, to }, { prefer: 'wait=10' })
    }
  }
  const buyers = [sell(), sell()]
  t.teardown(async () => {
    selling = false
    await Promise.all(buyers)
  })

  // Statuses appear with the first sale, and the fleet figures of a worker with its first poll.
  const first = [
    /^holdfast_purchases_total\{.*status="confirmed"/m,
    /^holdfast_bookings_total\{/m,
    /^holdfast_invariant_violations 0$/m,
  ]
  const page = async () =>
    (await Promise.all(processes.map(async ({ url }) => (await fetch(`${url}/metrics`)).text()))).join('\n')
  const begun = async () => {
    const text = await page()
    return first.every((one) => one.test(text))
  }
  await until(begun, { timeout_ms: 40_000, what: 'sales, a booking and a verdict' })
  const exported = names(await page())
  for (const { expr, what } of [
    ...queries.map(({ title, expr }) => ({ what: title, expr })),
    ...rules.map(({ alert, expr }) => ({ what: alert, expr })),
  ]) {
    const { metrics, labels } = namedBy(expr)
    t.ok(metrics.length > 0, `${what} asks for something`)
    const known = new Set(['job', 'instance'])
    for (const name of metrics) {
      if (name !== 'up') t.ok(exported.has(name), `${what}: ${name} is exported`)
      for (const label of exported.get(name) ?? []) known.add(label)
    }
    for (const label of labels) t.ok(known.has(label), `${what}: ${label} is a label`)
  }
  if (!found) return

  const folder = join(process.env.HOLDFAST_TEST_FOLDER ?? t.testdir({}), `prometheus-${process.pid}`)
  mkdirSync(folder)
  t.teardown(() => rmSync(folder, { recursive: true, force: true }))
  const config = parse(read('prometheus/prometheus.yml'))
  config.global = { scrape_interval: '500ms', evaluation_interval: '500ms' }
  config.rule_files = [join(ROOT, 'ops/deploy/prometheus/alerts.yml')]
  // Replace only the names of containers by the addresses here.
  for (const job of config.scrape_configs) {
    t.match(job.dns_sd_configs, [{ names: [job.job_name], type: 'A' }])
    delete job.dns_sd_configs
    const hosts = (job.job_name === 'api' ? [api] : workers).map(({ url }) => new URL(url).host)
    job.static_configs = [{ targets: hosts }]
  }
  writeFileSync(join(folder, 'prometheus.yml'), stringify(config))
  const at = `127.0.0.1:${await anyFreePort()}`
  const args = [
    `--config.file=${folder}/prometheus.yml`,
    `--storage.tsdb.path=${folder}/data`,
    `--web.listen-address=${at}`,
  ]
  const child = spawn(found.prometheus, args, { stdio: ['ignore', 'ignore', 'pipe'] })
  let said = ''
  child.stderr.on('data', (chunk) => {
    said += chunk
  })
  t.teardown(async () => {
    const ended = new Promise((resolve) => child.once('close', resolve))
    child.kill('SIGKILL')
    await ended
  })
  const ask = async (path: string) => {
    // biome-ignore lint/suspicious/noExplicitAny: answers are looked at field by field
    const answer = (await (await fetch(`http://${at}/api/v1/${path}`)).json()) as any
    return answer.data
  }
  const samples = async (expr: string) => {
    const { result } = await ask(`query?query=${encodeURIComponent(expr.replaceAll('$__rate_interval', '5s'))}`)
    return result.filter(({ value }: { value: [number, string] }) => value[1] !== 'NaN')
  }
  await until(async () => (await samples('up == 1')).length === processes.length, {
    timeout_ms: 30_000,
    what: 'Prometheus to find every process',
  }).catch((error) => t.fail(`${error.message}\n${said}`))
  for (const { title, expr } of queries) {
    const some = async () => (await samples(expr)).length > 0
    t.ok(await until(some, { what: `${title}: ${expr}`, timeout_ms: 20_000 }), `${title} has data`)
  }
  const { groups } = await ask('rules')
  for (const { name, health, lastError } of groups.flatMap((group: { rules: object[] }) => group.rules)) {
    t.not(health, 'err', `${name} is evaluated: ${lastError ?? ''}`)
  }
})
