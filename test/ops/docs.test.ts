/**
 * The API document and its page: openapi.json matches the routes, passes the linter, and every example works when it is
 * executed. The pages that list codes and variables are complete, and the requests that they print work.
 */
import { spawn, spawnSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t, { type Test } from 'tap'
import { ROOT } from '../../ops/dev/install.mjs'
import { isConfiguration, readConfig } from '../../src/shared/config.ts'
import { hasBrowser, openBrowser } from '../support/browser.ts'
import { fromBundle, openWorld, until } from '../support/environment.ts'
import { contract, document, type Operation, operations, schemaAt } from '../support/openapi-contract.ts'

async function run(args: string[], env: Record<string, string> = {}) {
  const { PATH = '', HOME = '' } = process.env
  const child = spawn(process.execPath, args, { cwd: ROOT, env: { PATH, HOME, ...env } })
  let output = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (chunk: string) => {
      output += chunk
    })
  }
  const code = await new Promise((resolve) => child.once('close', resolve))
  return { code, output }
}

t.test('openapi.json: matches the routes', async (t) => {
  const { code, output } = await run(['--import=tsx', 'ops/checks/openapi.ts', '--check'])
  t.equal(code, 0, output)
})

t.test('openapi.json: no errors or warnings of the linter', async (t) => {
  const args = [
    fileURLToPath(import.meta.resolve('@redocly/cli/bin/cli.js')),
    'lint',
    '--format=stylish',
    '--max-problems=20',
  ]
  const { code, output } = await run(args, { REDOCLY_TELEMETRY: 'off', REDOCLY_SUPPRESS_UPDATE_NOTICE: 'true' })
  t.equal(code, 0, output)
  t.notMatch(output, /\d+ (warning|error)/, output)
})

t.test('operations: each has a name, a tag and its error responses', async (t) => {
  const ids = operations.map((one) => one.operation.operationId)
  t.equal(new Set(ids).size, ids.length)
  for (const { path, method, operation } of operations) {
    const { operationId, tags, responses, parameters = [], requestBody } = operation
    t.match(operationId, /^[a-z][A-Za-z]+$/)
    t.equal(tags?.length, 1, `${operationId} has its place in the page`)
    for (const [status, { description, content = {} }] of Object.entries(responses)) {
      const at = ['paths', path, method, 'responses', status, 'content']
      t.not(description, 'Default Response', `${operationId} ${status} says what it means`)
      for (const [media, { schema, example }] of Object.entries(content)) {
        t.ok(schema, `${operationId} ${status} has a schema`)
        if (example) t.equal(schemaAt(...at, media, 'schema')(example), '', `and an example that fits`)
      }
      if (path.startsWith('/api/') && Number(status) >= 400) {
        t.same(Object.keys(content), ['application/problem+json'], `${operationId} ${status} is a problem`)
        t.match(content['application/problem+json']?.example, { status: Number(status) })
      }
    }
    if (path.startsWith('/api/')) {
      t.ok(
        ['400', '401', '500', '503'].every((status) => responses[status]),
        `${operationId} documents its refusals`,
      )
    }
    for (const parameter of parameters.filter((one) => one.required)) {
      t.ok(parameter.example, `${operationId} has an example of ${parameter.name}`)
    }
    if (requestBody) {
      const { schema, example } = requestBody.content['application/json']
      t.ok(schema && example, `${operationId} has an example of its body`)
      const fault = schemaAt('paths', path, method, 'requestBody', 'content', 'application/json', 'schema')(example)
      t.equal(fault, '', 'that fits')
    }
  }
  for (const name of ['Resource', 'Purchase', 'Booking']) {
    const { components } = document as unknown as { components: { schemas: Record<string, { examples: unknown[] }> } }
    for (const example of components.schemas[name]?.examples ?? []) {
      t.equal(schemaAt('components', 'schemas', name)(example), '', `the example of ${name} fits`)
    }
  }
})

t.test('docs/errors.md: has every code of the source, with its status', (t) => {
  const rows = readFileSync(join(ROOT, 'docs/errors.md'), 'utf8')
    .split('\n')
    .filter((line) => line.startsWith('| `'))
    .map((line) => line.split('|').slice(1, 3))
  const sources = readdirSync(join(ROOT, 'src'), { recursive: true, encoding: 'utf8' })
    .filter((file) => file.endsWith('.ts') && !file.startsWith('client') && !file.includes('payments/sandbox'))
    .map((file) => readFileSync(join(ROOT, 'src', file), 'utf8'))
  const answers = sources.flatMap((text) => Array.from(text.matchAll(/\b([45]\d\d),\s+'([a-z_]{3,})'/g)))
  t.ok(answers.length > 40, `${answers.length} were found`)
  for (const [, status = '', code] of answers) {
    const documented = rows.some(
      ([codes = '', statuses = '']) => codes.includes(`\`${code}\``) && statuses.includes(status),
    )
    t.ok(documented || code === 'problem', `${status} ${code}`)
  }
  t.end()
})

t.test('docs/operations.md: has a runbook for every alert, with its severity', async (t) => {
  const page = readFileSync(join(ROOT, 'docs/operations.md'), 'utf8')
  const rules = readFileSync(join(ROOT, 'ops/deploy/prometheus/alerts.yml'), 'utf8')
  const alerts = Array.from(rules.matchAll(/- alert: (\w+)[\s\S]*?severity: (\w+)/g))
  t.ok(alerts.length > 10, `${alerts.length} were found`)
  for (const [, alert, severity] of alerts) {
    t.ok(page.includes(`\n### ${alert}\n\n\`${severity}\`. `), `${alert}: ${severity}`)
  }
})

t.test('links between documents: each leads to a file and a heading', async (t) => {
  const pages = readdirSync(join(ROOT, 'docs'), { recursive: true, encoding: 'utf8' }).map((file) => `docs/${file}`)
  for (const page of ['README.md', 'CONTRIBUTING.md', ...pages].filter((file) => file.endsWith('.md'))) {
    const text = readFileSync(join(ROOT, page), 'utf8')
    for (const [, path = '', heading] of text.matchAll(/\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)/g)) {
      const target = path === '' ? page : join(dirname(page), path)
      t.ok(existsSync(join(ROOT, target)), `${page}: ${target}`)
      if (heading === undefined || !target.endsWith('.md') || !existsSync(join(ROOT, target))) continue
      const headings = Array.from(readFileSync(join(ROOT, target), 'utf8').matchAll(/^#+ (.+)$/gm), ([, one = '']) =>
        one
          .toLowerCase()
          .replaceAll(/[^\w\s-]/g, '')
          .replaceAll(' ', '-'),
      )
      t.ok(headings.includes(heading), `${page}: ${target}#${heading}`)
    }
  }
})

/** The rows of docs/configuration.md: variable, default and meaning. */
const settings = readFileSync(join(ROOT, 'docs/configuration.md'), 'utf8')
  .split('\n')
  .filter((line) => line.startsWith('| `'))
  .map((line) => line.split('|').map((cell) => cell.trim()))
  .flatMap(([, names = '', otherwise = '', meaning = '']) =>
    Array.from(names.matchAll(/`([A-Z][A-Z0-9_]+)`/g), ([, name = '']) => ({ name, otherwise, meaning })),
  )

const ADDRESSES = { DATABASE_URL: 'postgres://localhost/holdfast', REDIS_URL: 'redis://localhost' }
/** Variables that another variable requires. */
const NEEDS: Record<string, Record<string, string>> = {
  ETCD_HOSTS: { LOCK_BACKEND: 'etcd', ETCD_HOSTS: 'http://localhost:2379' },
  LOCK_MAX_TTL_MS: { LOCK_REDIS_URLS: 'redis://localhost:1,redis://localhost:2,redis://localhost:3' },
}
/** Defaults that are not in the configuration but in the code that uses them. */
const ELSEWHERE: Record<string, readonly [file: string, text: string]> = {
  METRICS_PORT: ['src/workers/main.ts', 'METRICS_PORT = 9464'],
  LOCK_MAX_TTL_MS: ['src/shared/locks/redlock/locks.ts', 'Math.max(60_000, '],
  SANDBOX_SLOW_MS: ['ops/commands/sandbox.ts', "SANDBOX_SLOW_MS = '1500'"],
}

t.test('docs/configuration.md: has every variable that a process reads', async (t) => {
  const page = readFileSync(join(ROOT, 'docs/configuration.md'), 'utf8')
  const config = readFileSync(join(ROOT, 'src/shared/config.ts'), 'utf8')
  const [, list = ''] = /VARIABLES = \[([^\]]+)\] as const/.exec(config) ?? []
  const read = Array.from(list.matchAll(/'([A-Z][A-Z0-9_]{2,})'/g), ([, name = '']) => name)
  t.ok(read.length > 30, `${read.length} were found`)
  for (const name of read) {
    t.match(page, new RegExp(`\\b${name}\\b`), name)
  }
})

t.test('docs/configuration.md: defaults and limits are those of the code', async (t) => {
  const at = (name: string, value?: string) =>
    readConfig({ ...ADDRESSES, ...NEEDS[name], ...(value !== undefined && { [name]: value }) })
  for (const { name, otherwise, meaning } of settings.filter(({ name }) => isConfiguration(name))) {
    // A default is the first word of its cell, as the variable would be set: 5000 or `info`.
    const [, code, number] = /^(?:`([^`]+)`|(\d+)(?=$|[,;]))/.exec(otherwise) ?? []
    const value = code ?? number
    const elsewhere = ELSEWHERE[name]
    if (elsewhere) {
      const [file, text] = elsewhere
      t.ok(readFileSync(join(ROOT, file), 'utf8').includes(text), `${name}: ${file}`)
      t.equal(value, /\d[\d_]+/.exec(text)?.[0].replaceAll('_', ''), name)
    } else if (value !== undefined) {
      t.same(at(name, value), at(name), `${name}=${value} is what it is when it is unset`)
    }
    const [, least, most] = /(?:^|: )(\d+) to (\d+)\b/.exec(meaning) ?? []
    if (least === undefined || most === undefined) continue
    for (const limit of [least, most]) {
      // Two limits depend on a second variable, which the page names.
      if (!/RETENTION|DISABLE/.test(name)) t.doesNotThrow(() => at(name, limit), `${name}=${limit}`)
    }
    for (const beyond of [Number(least) - 1, Number(most) + 1]) {
      t.throws(() => at(name, String(beyond)), { message: new RegExp(`^${name} `) }, `${name}=${beyond} is refused`)
    }
  }
})

/** An API, a worker and a payment sandbox on the sample data, with the sample purchases settled. */
async function samples(t: Test) {
  const world = await openWorld(t)
  const seeded = await run(fromBundle('ops/commands/seed.ts'), world.env)
  t.equal(seeded.code, 0, seeded.output)
  const { url: SANDBOX_URL } = await world.startSandbox()
  const [api] = await Promise.all([world.startApi({ SANDBOX_URL }), world.startWorker({ SANDBOX_URL })])
  const call = contract(api.url)
  for (const list of ['purchases', 'bookings']) {
    await until(async () => (await call('GET', `/api/${list}?status=queued`)).body.data.length === 0)
  }
  return { url: api.url, call }
}

/** Returns an operation's request as Swagger UI fills it in: with examples, otherwise defaults. */
function prefilled(path: string, { parameters = [], requestBody }: Operation) {
  const values = parameters.flatMap((parameter) => {
    const value = parameter.example ?? parameter.schema.default
    return value === undefined ? [] : [{ ...parameter, value: String(value) }]
  })
  const of = (place: string) =>
    values.filter((one) => one.in === place).map(({ name, value }): [string, string] => [name, value])
  const query = new URLSearchParams(of('query')).toString()
  const body = requestBody?.content['application/json'].example
  return {
    path: of('path').reduce((url, [name, value]) => url.replace(`{${name}}`, value), path) + (query && `?${query}`),
    headers: Object.fromEntries(of('header')),
    ...(body === undefined ? {} : { body }),
  }
}

/** Members that differ between runs. */
const OWN = new Set(['id', 'seq', 'fencing_token'])

t.test('requests of README.md and docs/getting-started.md: get the printed answers', async (t) => {
  const { url } = await samples(t)
  for (const file of ['README.md', 'docs/getting-started.md']) {
    const blocks = readFileSync(join(ROOT, file), 'utf8').matchAll(/```(sh|json)\n([\s\S]*?)```/g)
    // Use one shell for all requests of a page, so that variables are kept. A mark precedes each answer.
    const mark = '-- request --'
    const [script, answers]: [string[], string[]] = [[], []]
    for (const [, language, text = ''] of blocks) {
      if (language === 'json') answers.push(text)
      else if (text.includes('curl ')) script.push(`printf '\\n${mark}\\n'\n${text}`)
    }
    t.equal(script.length, answers.length, `${file}: each request has an answer`)
    // Allow a longer wait than the page, because this machine may be busy.
    const body = script.join('\n').replaceAll('http://localhost:3000', url).replaceAll('wait=10', 'wait=30')
    const { status, stdout, stderr } = spawnSync('sh', ['-euc', body], { encoding: 'utf8' })
    t.equal(status, 0, `${file}: ${stderr}`)
    const printed = stdout.split(`\n${mark}\n`).slice(1)
    for (const [index, text] of answers.entries()) {
      const expected = JSON.parse(text.replaceAll(/,?\s*…/g, ''), (name, value) => (OWN.has(name) ? undefined : value))
      t.match(
        JSON.parse(printed[index] ?? 'null'),
        expected,
        `${file}: ${script[index]?.split('\n').slice(1).join(' ')}`,
      )
    }
  }
})

// A browser that draws in software needs half a second of two cores for each example. So the test executes only the
// first of each tag and of each method in the browser, and sends the others as Swagger UI fills them in.
// TEST_PRESS_ALL=1 executes all in the browser; without a browser the test sends all.
t.setTimeout(300_000)
const seen = new Set<string | undefined>()
const pressed = new Set(
  operations.filter(({ method, operation: { tags } }) => {
    const fresh = !seen.has(tags[0]) || !seen.has(method)
    seen.add(tags[0]).add(method)
    return hasBrowser && (fresh || process.env.TEST_PRESS_ALL === '1')
  }),
)

t.test(`every example: answered with 2xx when it is executed, ${pressed.size} in Swagger UI`, async (t) => {
  const { url, call } = await samples(t)
  t.same(await (await fetch(`${url}/openapi.json`)).json(), document, 'the committed document is served')
  const page = hasBrowser ? await openPage(t, url) : undefined
  // Show one tag at a time: Swagger UI reads the whole document again for each operation that is opened.
  for (const tag of new Set(operations.map(({ operation }) => operation.tags[0]))) {
    const own = operations.filter(({ operation }) => operation.tags[0] === tag)
    await page?.show(own)
    for (const one of own) {
      const { method, path, operation } = one
      if (page && pressed.has(one)) {
        const response = await page.press(one)
        t.ok(response.ok(), `${operation.operationId}: pressed → ${response.status()} ${response.url()}`)
      } else {
        const { path: filled, ...request } = prefilled(path, operation)
        const { status, body } = await call(method.toUpperCase(), filled, request)
        t.ok(status >= 200 && status < 300, `${operation.operationId}: ${status} ${status < 300 ? '' : body.detail}`)
      }
    }
  }
  t.same(page?.complaints ?? [], [], 'and the page has nothing to complain about')
})

async function openPage(t: Test, url: string) {
  const browser = await openBrowser(t)
  const page = await browser.newPage({ viewport: { width: 800, height: 400 }, reducedMotion: 'reduce' })
  const complaints: string[] = []
  page.on('pageerror', (error) => complaints.push(error.message))
  page.on('console', (message) => message.type() === 'error' && complaints.push(message.text()))
  await page.goto(`${url}/docs/#/lab`)
  await page.waitForSelector('#operations-tag-lab[data-is-open=true]')
  t.equal(await page.locator('.opblock').count(), operations.length)
  return {
    complaints,
    /** Shows the page with these operations only. */
    async show(own: typeof operations) {
      const paths = Object.fromEntries(own.map(({ path }) => [path, document.paths[path]]))
      await page.unrouteAll()
      await page.route('**/docs/json', (route) => route.fulfill({ json: { ...document, paths } }))
      // The address opens the tag also if it is closed at first.
      await page.goto(`${url}/docs/#/${own[0]?.operation.tags[0]}`)
      await page.reload()
    },
    async press({ path, operation }: (typeof operations)[number]) {
      const asked = new RegExp(`^${path.replace(/\{\w+\}/g, '[^/]+')}$`)
      const block = page.locator(`#operations-${operation.tags[0]}-${operation.operationId}`)
      await block.locator('.opblock-summary-control').click()
      const request = page.waitForResponse((response) => asked.test(new URL(response.url()).pathname))
      await block.getByRole('button', { name: 'Execute' }).click()
      const response = await request
      await block
        .locator('.live-responses-table .response-col_status')
        .filter({ hasText: String(response.status()) })
        .waitFor()
      await block.locator('.opblock-summary-control').click()
      return response
    },
  }
}
