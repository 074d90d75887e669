{{/* Deployment of one component: dict "root" "component" "section" (that of the client port, none for workers). */}}
{{- define "calltag.deployment" -}}
{{- $root := .root -}}
{{- $pods := index $root.Values .component -}}
{{- $scope := dict "root" $root "component" .component -}}
{{- $settings := include "calltag.settings" $scope | fromJson -}}
{{- $delay := $settings.drain_delay_s | default 0 | float64 | ceil | int -}}
{{- $timeout := $settings.drain_timeout_s | default 10 | float64 | ceil | int -}}
{{- $scaled := or (dig "autoscaling" "enabled" false $pods) (dig "keda" "enabled" false $pods) -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  {{- include "calltag.metadata" $scope | nindent 2 }}
spec:
  {{- if not $scaled }}
  replicas: {{ $pods.replicas }}
  {{- end }}
  strategy:
    rollingUpdate:
      maxSurge: 1
      maxUnavailable: 0
  selector:
    matchLabels:
      {{- include "calltag.componentSelector" $scope | nindent 6 }}
  template:
    metadata:
      labels:
        {{- include "calltag.componentSelector" $scope | nindent 8 }}
        app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
        {{- with $root.Values.commonLabels }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
        {{- with $pods.podLabels }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- with $pods.podAnnotations }}
      annotations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
    spec:
      serviceAccountName: {{ include "calltag.serviceAccount" $root }}
      automountServiceAccountToken: false
      enableServiceLinks: false
      terminationGracePeriodSeconds: {{ add $root.Values.preStopSeconds $delay $timeout 10 }}
      {{- with $root.Values.imagePullSecrets }}
      imagePullSecrets:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $pods.priorityClassName }}
      priorityClassName: {{ . }}
      {{- end }}
      {{- with $pods.nodeSelector }}
      nodeSelector:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $pods.tolerations }}
      tolerations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $pods.affinity }}
      affinity:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      topologySpreadConstraints:
        {{- if $pods.topologySpreadConstraints }}
        {{- toYaml $pods.topologySpreadConstraints | nindent 8 }}
        {{- else }}
        {{- range $key := list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
        - maxSkew: 1
          topologyKey: {{ $key }}
          whenUnsatisfiable: ScheduleAnyway
          labelSelector:
            matchLabels:
              {{- include "calltag.componentSelector" $scope | nindent 14 }}
        {{- end }}
        {{- end }}
      securityContext:
        {{- include "calltag.podSecurity" $root | nindent 8 }}
      {{- with $pods.initContainers }}
      initContainers:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      containers:
        - {{ include "calltag.container" (merge (dict "args" (list .component)) $scope) | nindent 10 | trim }}
            {{- with $pods.extraVolumeMounts }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
          {{- with $pods.extraEnvFrom }}
          envFrom:
            {{- toYaml . | nindent 12 }}
          {{- end }}
          ports:
            {{- with .section }}
            - name: http
              containerPort: {{ index $settings . "port" | int }}
            {{- end }}
            - name: internal
              containerPort: {{ $settings.internal.port | int }}
          startupProbe:
            httpGet:
              path: /livez
              port: internal
            periodSeconds: 2
            failureThreshold: 30
          livenessProbe:
            httpGet:
              path: /livez
              port: internal
            periodSeconds: 10
            timeoutSeconds: 5
          readinessProbe:
            httpGet:
              path: /readyz
              port: internal
            periodSeconds: 5
            timeoutSeconds: 4
            failureThreshold: 2
          {{- if $root.Values.preStopSeconds }}
          lifecycle:
            preStop:
              sleep:
                seconds: {{ $root.Values.preStopSeconds }}
          {{- end }}
          resources:
            {{- toYaml $pods.resources | nindent 12 }}
        {{- with $pods.sidecars }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      volumes:
        {{- include "calltag.volumes" $scope | nindent 8 }}
        {{- with $pods.extraVolumes }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
{{- if $pods.podDisruptionBudget.enabled }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  {{- include "calltag.metadata" $scope | nindent 2 }}
spec:
  maxUnavailable: {{ $pods.podDisruptionBudget.maxUnavailable }}
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels:
      {{- include "calltag.componentSelector" $scope | nindent 6 }}
{{- end }}
{{- end -}}

{{/* Service of a component for clients: dict "root" "component". */}}
{{- define "calltag.service" -}}
{{- $service := (index .root.Values .component).service -}}
apiVersion: v1
kind: Service
metadata:
  {{- include "calltag.metadata" . | nindent 2 }}
  {{- with $service.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  type: {{ $service.type }}
  {{- with $service.trafficDistribution }}
  trafficDistribution: {{ . }}
  {{- end }}
  selector:
    {{- include "calltag.componentSelector" . | nindent 4 }}
  ports:
    - name: http
      port: {{ $service.port }}
      targetPort: http
      appProtocol: {{ ternary "https" "http" (ne .root.Values.tls.existingSecret "") }}
{{- end -}}

{{/* HorizontalPodAutoscaler of a component: dict "root" "component". */}}
{{- define "calltag.autoscaler" -}}
{{- $scaling := (index .root.Values .component).autoscaling -}}
{{- if $scaling.enabled }}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  {{- include "calltag.metadata" . | nindent 2 }}
spec:
  scaleTargetRef:
    apiVersion: apps/v1
    kind: Deployment
    name: {{ include "calltag.fullname" .root }}-{{ .component }}
  minReplicas: {{ $scaling.minReplicas }}
  maxReplicas: {{ $scaling.maxReplicas }}
  metrics:
    - type: Resource
      resource:
        name: cpu
        target:
          type: Utilization
          averageUtilization: {{ $scaling.targetCpuUtilization }}
    {{- with $scaling.sessionsPerPod }}
    - type: Pods
      pods:
        metric:
          name: calltag_cometd_sessions
        target:
          type: AverageValue
          averageValue: {{ . | int | quote }}
    {{- end }}
  behavior:
    {{- if $scaling.behavior }}
    {{- toYaml $scaling.behavior | nindent 4 }}
    {{- else }}
    scaleDown:
      stabilizationWindowSeconds: 600
      policies:
        - type: Pods
          value: 1
          periodSeconds: 60
    {{- end }}
{{- end }}
{{- end -}}
