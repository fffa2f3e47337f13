/** Serves Swagger UI at /docs. Invariant: it loads everything from this origin, and its scripts are files. */
import { readFileSync } from 'node:fs'
import swaggerUi from '@fastify/swagger-ui'
import type { FastifyInstance } from 'fastify'

const read = (file: string) => readFileSync(new URL(file, import.meta.url))

export async function serveSwaggerUi(app: FastifyInstance): Promise<void> {
  const icon = read('../dashboard/public/icon.svg')
  const text = (file: string) => [{ filename: file, content: read(file).toString() }]
  await app.register(swaggerUi, {
    routePrefix: '/docs',
    // All tags are open, and swagger-ui.js closes the lab. The list of schemas is closed: each operation shows its own.
    uiConfig: {
      tryItOutEnabled: true,
      docExpansion: 'list',
      defaultModelsExpandDepth: 0,
      displayRequestDuration: true,
    },
    logo: { type: 'image/svg+xml', content: icon },
    theme: {
      title: 'Holdfast API',
      css: text('swagger-ui.css'),
      js: text('swagger-ui.js'),
      favicon: [{ filename: 'icon.svg', rel: 'icon', sizes: 'any', type: 'image/svg+xml', content: icon }],
    },
  })
}
