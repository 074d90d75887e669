{{/* Name of all resources. */}}
{{- define "calltag.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Labels by which resources find the pods of the release. */}}
{{- define "calltag.selector" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* Labels of a resource. */}}
{{- define "calltag.labels" -}}
{{ include "calltag.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: calltag
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Metadata of a resource of one component: dict "root" "component" and perhaps "name". */}}
{{- define "calltag.metadata" -}}
name: {{ .name | default (printf "%s-%s" (include "calltag.fullname" .root) .component) }}
labels:
  {{- include "calltag.labels" .root | nindent 2 }}
  app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* Labels by which a resource finds the pods of one component. */}}
{{- define "calltag.componentSelector" -}}
{{ include "calltag.selector" .root }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "calltag.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "calltag.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "calltag.image" -}}
{{- with .Values.image -}}
{{- if .registry }}{{ trimSuffix "/" .registry }}/{{ end }}{{ .repository }}
{{- if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end -}}
{{- end -}}

{{/* Address that clients use, where the settings do not say: that of the Ingress or of the HTTPRoute. */}}
{{- define "calltag.publicUrl" -}}
{{- if and .Values.ingress.enabled .Values.ingress.hosts -}}
{{- printf "%s://%s" (ternary "https" "http" (gt (len .Values.ingress.tls) 0)) (first .Values.ingress.hosts) -}}
{{- else if and .Values.httpRoute.enabled .Values.httpRoute.hostnames -}}
{{- printf "https://%s" (first .Values.httpRoute.hostnames) -}}
{{- end -}}
{{- end -}}

{{/* Not empty for pods that read users, and the certificate of the server. */}}
{{- define "calltag.serves" -}}
{{- if ne .component "worker" }}yes{{ end -}}
{{- end -}}

{{/* Settings of a component as JSON: the chart's own, then `settings`, then those of the component. */}}
{{- define "calltag.settings" -}}
{{- $v := .root.Values -}}
{{- $settings := dict
  "log" (dict "format" "json")
  "gateway" (dict "host" "0.0.0.0" "port" 8080)
  "notifier" (dict "host" "0.0.0.0" "port" 8081)
  "internal" (dict "host" "0.0.0.0" "port" 9090)
-}}
{{- with include "calltag.publicUrl" .root }}{{ $_ := set $settings "public_url" . }}{{ end -}}
{{- if and $v.directory.existingSecret (include "calltag.serves" .) }}
{{- $_ := set $settings "directory" (dict "file" (printf "/etc/calltag/directory/%s" $v.directory.key)) }}
{{- end -}}
{{- if and $v.tls.existingSecret (include "calltag.serves" .) }}
{{- $tls := dict "cert_file" "/etc/calltag/tls/tls.crt" "key_file" "/etc/calltag/tls/tls.key" }}
{{- if $v.tls.verifyClients }}{{ $_ := set $tls "client_ca_file" "/etc/calltag/tls/ca.crt" }}{{ end }}
{{- $_ := set $settings "tls" $tls }}
{{- end -}}
{{- range $section, $tls := dict "amqp" $v.amqpTls "redis" $v.redisTls }}
{{- if $tls.existingSecret }}
{{- $folder := printf "/etc/calltag/%s-tls" $section }}
{{- $files := dict "ca_file" (printf "%s/ca.crt" $folder) }}
{{- if $tls.clientCertificate }}
{{- $files = merge $files (dict "cert_file" (printf "%s/tls.crt" $folder) "key_file" (printf "%s/tls.key" $folder)) }}
{{- end }}
{{- $_ := set $settings $section (dict "tls" $files) }}
{{- end }}
{{- end -}}
{{- $own := dig .component "settings" dict (pick $v "gateway" "worker" "notifier") -}}
{{- mergeOverwrite $settings (deepCopy $v.settings) (deepCopy $own) | toJson -}}
{{- end -}}

{{/* Environment variables of a tree of settings: dict "tree" "prefix". Lists and numbers are written as JSON. */}}
{{- define "calltag.variables" -}}
{{- range $name, $value := .tree }}
{{- $variable := printf "%s%s" $.prefix (upper $name) }}
{{- if kindIs "map" $value }}
{{- include "calltag.variables" (dict "tree" $value "prefix" (printf "%s__" $variable)) }}
{{- else if not (kindIs "invalid" $value) }}
- name: {{ $variable }}
  value: {{ kindIs "string" $value | ternary $value (toJson $value) | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{/* The same for a tree of names and keys of Secrets. */}}
{{- define "calltag.secretVariables" -}}
{{- range $name, $value := .tree }}
{{- $variable := printf "%s%s" $.prefix (upper $name) }}
{{- if hasKey $value "key" }}
- name: {{ $variable }}
  valueFrom:
    secretKeyRef:
      {{- toYaml $value | nindent 6 }}
{{- else }}
{{- include "calltag.secretVariables" (dict "tree" $value "prefix" (printf "%s__" $variable)) }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "calltag.rabbitmqName" -}}
{{ include "calltag.fullname" . }}-rabbitmq
{{- end -}}

{{/* Environment of a container: dict "root" "component". */}}
{{- define "calltag.environment" -}}
{{- $secrets := deepCopy .root.Values.secretSettings -}}
{{- if .root.Values.rabbitmq.cluster.create }}
{{- $user := dict "name" (printf "%s-default-user" (include "calltag.rabbitmqName" .root)) "key" "connection_string" }}
{{- $secrets = mergeOverwrite $secrets (dict "amqp" (dict "url" $user)) }}
{{- end -}}
{{- include "calltag.variables" (dict "tree" (include "calltag.settings" . | fromJson) "prefix" "CALLTAG_") }}
{{- include "calltag.secretVariables" (dict "tree" $secrets "prefix" "CALLTAG_") }}
{{- end -}}

{{/* Volumes of a pod, and where they are mounted: dict "root" "component". */}}
{{- define "calltag.volumes" -}}
- name: tmp
  emptyDir: {}
{{- range $name, $secret := include "calltag.secretFiles" . | fromJson }}
- name: {{ $name }}
  secret:
    secretName: {{ $secret }}
{{- end }}
{{- end -}}

{{- define "calltag.mounts" -}}
- name: tmp
  mountPath: /tmp
{{- range $name, $_ := include "calltag.secretFiles" . | fromJson }}
- name: {{ $name }}
  mountPath: /etc/calltag/{{ $name }}
  readOnly: true
{{- end }}
{{- end -}}

{{- define "calltag.secretFiles" -}}
{{- $v := .root.Values -}}
{{- $files := dict -}}
{{- $all := dict "amqp-tls" $v.amqpTls "redis-tls" $v.redisTls -}}
{{- if include "calltag.serves" . }}{{ $all = merge $all (dict "directory" $v.directory "tls" $v.tls) }}{{ end -}}
{{- range $name, $value := $all }}
{{- if $value.existingSecret }}{{ $_ := set $files $name $value.existingSecret }}{{ end }}
{{- end -}}
{{- toJson $files -}}
{{- end -}}

{{/* What the restricted Pod Security Standard demands. */}}
{{- define "calltag.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "calltag.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* A container: dict "root" "component" "args". */}}
{{- define "calltag.container" -}}
name: {{ .component }}
image: {{ include "calltag.image" .root }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
args: {{ toJson .args }}
env:
  {{- include "calltag.environment" . | trim | nindent 2 }}
securityContext:
  {{- include "calltag.containerSecurity" .root | nindent 2 }}
volumeMounts:
  {{- include "calltag.mounts" . | nindent 2 }}
{{- end -}}

{{/* Spec of a pod that runs one command to its end: dict "root" "component" "args". */}}
{{- define "calltag.commandPod" -}}
restartPolicy: Never
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- include "calltag.podSecurity" .root | nindent 2 }}
containers:
  - {{ include "calltag.container" . | nindent 4 | trim }}
    resources:
      {{- toYaml .root.Values.topologyJob.resources | nindent 6 }}
volumes:
  {{- include "calltag.volumes" . | nindent 2 }}
{{- end -}}

{{/* Port of a section of the settings. */}}
{{- define "calltag.port" -}}
{{- index (include "calltag.settings" . | fromJson) .section "port" | int -}}
{{- end -}}

{{- define "calltag.partitions" -}}
{{- .Values.settings.partitions | default 32 | int -}}
{{- end -}}

{{/* Paths of CometD; all others belong to the gateways. */}}
{{- define "calltag.cometdPaths" -}}
["/genesys/cometd", "/api/v2/notifications"]
{{- end -}}

{{/* Values that contradict each other, or lack something. */}}
{{- define "calltag.check" -}}
{{- $demo := dig "directory" "demo" false .Values.settings -}}
{{- if and (not .Values.directory.existingSecret) (not $demo) -}}
{{- fail "directory.existingSecret: name the Secret that has the file of users, or set settings.directory.demo to try calltag" -}}
{{- end -}}
{{- if and .Values.directory.existingSecret $demo -}}
{{- fail "settings.directory.demo excludes directory.existingSecret: set the latter to \"\"" -}}
{{- end -}}
{{- range $component := list "gateway" "worker" "notifier" -}}
{{- $settings := (index $.Values $component).settings -}}
{{- range $one := list "partitions" "amqp" "redis" "events" "operation_memory_s" -}}
{{- if hasKey $settings $one -}}
{{- fail (printf "%s.settings.%s: this setting must be the same for all services: move it to settings" $component $one) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- with .Values.worker.keda -}}
{{- if .enabled -}}
{{- if not .serverAddress -}}
{{- fail "worker.keda.serverAddress: name the Prometheus that scrapes calltag, as in http://prometheus.monitoring:9090" -}}
{{- end -}}
{{- if gt (int .maxReplicas) (int (include "calltag.partitions" $)) -}}
{{- fail (printf "worker.keda.maxReplicas: %d workers are more than there are partitions (%s)" (int .maxReplicas) (include "calltag.partitions" $)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and .Values.httpRoute.enabled (not .Values.httpRoute.parentRefs) -}}
{{- fail "httpRoute.parentRefs: name the Gateway that the route belongs to" -}}
{{- end -}}
{{- if and .Values.rabbitmq.topology.create (not .Values.rabbitmq.cluster.create) (not .Values.rabbitmq.topology.cluster) -}}
{{- fail "rabbitmq.topology.cluster: name the RabbitmqCluster, or create one (rabbitmq.cluster.create)" -}}
{{- end -}}
{{- end -}}
