{{/* What jupyterhub_config.py is told, as its head has it, and what JupyterHub tells a service. No secrets. */}}
{{- define "replay.environment" -}}
{{- $settings := dict
    "JUPYTERHUB_SERVICE_NAME" "replay"
    "JUPYTERHUB_SERVICE_PREFIX" "/services/replay/"
    "JUPYTERHUB_SERVICE_URL" "http://0.0.0.0:10101"
    "JUPYTERHUB_CLIENT_ID" "service-replay"
    "JUPYTERHUB_BASE_URL" "/"
    "JUPYTERHUB_API_URL" .Values.hub.apiUrl
    "JUPYTERHUB_OAUTH_ACCESS_SCOPES" (list "access:services!service=replay" | toJson)
    "REPLAY_HUB" "zero-to-jupyterhub"
    "REPLAY_URL" .Values.hub.url
    "REPLAY_STATE_DIR" "/srv/replay"
    "REPLAY_TOKEN_FILE" "/etc/replay/secret/service_token"
    "REPLAY_API_TOKEN_FILE" "/etc/replay/secret/hub_token"
    "REPLAY_EXTRA_CONFIG" "/etc/replay/extra"
    "REPLAY_MEM_GUARANTEE" .Values.sessions.memory.guarantee
    "REPLAY_MEM_LIMIT" .Values.sessions.memory.limit
    "REPLAY_CPU_GUARANTEE" .Values.sessions.cpu.guarantee
    "REPLAY_CPU_LIMIT" .Values.sessions.cpu.limit
    "REPLAY_FEATURES" (join "," .Values.sessions.features)
    "REPLAY_ALLOWED_HOSTS" (join "," .Values.repositories.allowedHosts)
    "REPLAY_ARCHIVE_HOSTS" (join "," .Values.repositories.archiveHosts)
    "REPLAY_GITLAB_HOSTS" (join "," .Values.repositories.gitlabHosts)
    "REPLAY_EXEMPT_ORIGINS" (join "," .Values.repositories.exemptOrigins)
    "REPLAY_BUILDER" "kubernetes"
    "REPLAY_BUILD_NAMESPACE" (include "replay.buildNamespace" .)
    "REPLAY_BUILDER_IMAGE" (include "replay.image" (list .Values.builds.image "builds"))
    "REPLAY_BUILDER_IMAGE_PULL_POLICY" .Values.builds.image.pullPolicy
    "REPLAY_BUILD_ENGINE_SOCKET" (include "replay.engineSocket" .)
    "REPLAY_BUILD_ENGINE_DATA" (include "replay.engineData" .)
    "REPLAY_BUILD_DNS_POLICY" .Values.builds.dnsPolicy
    "REPLAY_BUILD_POD_WAIT" (toString .Values.builds.podWait)
    "REPLAY_BUILD_RESOURCES" (toJson .Values.builds.resources)
    "REPLAY_BUILD_NETWORK" .Values.builds.network
    "REPLAY_BUILD_PRIORITY_CLASS" .Values.builds.priorityClassName
    "REPLAY_BASE_IMAGE" .Values.builds.baseImage
    "REPLAY_REGISTRY" (required "registry.url: https://host[:port][/prefix] of the registry that keeps images." .Values.registry.url)
    "REPLAY_DOCKER_CONFIG" "/etc/replay/registry"
    "REPLAY_BUILD_PUSH_SECRET" .Values.registry.pushSecret
    "REPLAY_BUILD_CA_CONFIG_MAP" .Values.caConfigMap
-}}
{{- if .Values.metrics.enabled }}{{ $_ := set $settings "REPLAY_METRICS_ADDRESS" "0.0.0.0:10102" }}{{ end }}
{{- if .Values.engine.enabled }}
{{- $_ := set $settings "REPLAY_BUILD_ENGINE_PODS" (printf "app.kubernetes.io/name=replay,app.kubernetes.io/instance=%s,app.kubernetes.io/component=engine" .Release.Name) }}
{{- end }}
{{- with .Values.builds.nodeSelector }}{{ $_ := set $settings "REPLAY_BUILD_NODE_SELECTOR" (toJson .) }}{{ end }}
{{- with .Values.builds.tolerations }}{{ $_ := set $settings "REPLAY_BUILD_TOLERATIONS" (toJson .) }}{{ end }}
{{- with .Values.builds.imagePullSecrets }}{{ $_ := set $settings "REPLAY_BUILD_PULL_SECRETS" (toJson .) }}{{ end }}
{{- if .Values.builds.repo2dockerConfig }}{{ $_ := set $settings "REPLAY_REPO2DOCKER_CONFIG" "/etc/replay/repo2docker_config.py" }}{{ end }}
{{- if .Values.repositories.dataverseInstallations.configMap }}{{ $_ := set $settings "REPLAY_DATAVERSE_INSTALLATIONS" "/etc/replay/dataverse_installations.json" }}{{ end }}
{{- if .Values.repositories.sourceTokens.secret }}{{ $_ := set $settings "REPLAY_SOURCE_TOKENS_FILE" "/etc/replay/secret/source_tokens" }}{{ end }}
{{- $vos := list }}
{{- range $vo, $enrolment := .Values.vos }}{{ $vos = append $vos (printf "%s=%s" $vo $enrolment) }}{{ end }}
{{- $_ := set $settings "REPLAY_VOS" (join " " $vos) }}
{{- if .Values.policies }}{{ $_ := set $settings "REPLAY_POLICIES" "/etc/replay/policies.yaml" }}{{ end }}
{{- range $name, $value := merge (deepCopy .Values.service.extraEnv) $settings }}
{{- if $value }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end }}
{{- end -}}
