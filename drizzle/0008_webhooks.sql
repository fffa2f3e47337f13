CREATE TABLE "webhook_deliveries" (
	"id" bigint GENERATED ALWAYS AS IDENTITY (sequence name "webhook_deliveries_id_seq" INCREMENT BY 1 MINVALUE 1 MAXVALUE 9223372036854775807 START WITH 1 CACHE 1),
	"endpoint" uuid NOT NULL,
	"event" text NOT NULL,
	"type" text NOT NULL,
	"resource" text COLLATE "C" NOT NULL,
	"sequence" bigint NOT NULL,
	"attempt" integer NOT NULL,
	"status" integer,
	"error" text,
	"duration_ms" integer NOT NULL,
	"created_at" timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
	CONSTRAINT "webhook_deliveries_endpoint_id_pk" PRIMARY KEY("endpoint","id")
);
--> statement-breakpoint
CREATE TABLE "webhook_endpoints" (
	"id" uuid PRIMARY KEY DEFAULT gen_random_uuid() NOT NULL,
	"url" text NOT NULL,
	"events" jsonb,
	"resource" text COLLATE "C",
	"secret" text NOT NULL,
	"old_secret" text,
	"old_secret_until" timestamp with time zone,
	"disabled" text,
	"position" bigint NOT NULL,
	"created_at" timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
	CONSTRAINT "webhook_endpoints_secret_check" CHECK (("webhook_endpoints"."old_secret" IS NULL) = ("webhook_endpoints"."old_secret_until" IS NULL))
);
--> statement-breakpoint
CREATE TABLE "webhook_lines" (
	"endpoint" uuid NOT NULL,
	"resource" text COLLATE "C" NOT NULL,
	"done" bigint NOT NULL,
	"at_row" bigint NOT NULL,
	"tip" bigint NOT NULL,
	"attempts" integer DEFAULT 0 NOT NULL,
	"failing_since" timestamp with time zone,
	"due_at" timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
	"fence" bigint DEFAULT 0 NOT NULL,
	CONSTRAINT "webhook_lines_endpoint_resource_pk" PRIMARY KEY("endpoint","resource"),
	CONSTRAINT "webhook_lines_done_check" CHECK ("webhook_lines"."done" <= "webhook_lines"."tip")
);
--> statement-breakpoint
ALTER TABLE "webhook_deliveries" ADD CONSTRAINT "webhook_deliveries_endpoint_webhook_endpoints_id_fk" FOREIGN KEY ("endpoint") REFERENCES "public"."webhook_endpoints"("id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "webhook_lines" ADD CONSTRAINT "webhook_lines_endpoint_webhook_endpoints_id_fk" FOREIGN KEY ("endpoint") REFERENCES "public"."webhook_endpoints"("id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
CREATE INDEX "webhook_deliveries_by_time" ON "webhook_deliveries" USING btree ("created_at");--> statement-breakpoint
CREATE INDEX "webhook_lines_due" ON "webhook_lines" USING btree ("due_at") WHERE done < tip;